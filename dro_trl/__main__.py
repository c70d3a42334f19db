"""`python -m dro_trl` is `dro-trl`; `accelerate launch -m dro_trl train ...` starts it on several processes."""

from dro_trl.cli import main

if __name__ == "__main__":
    main()
