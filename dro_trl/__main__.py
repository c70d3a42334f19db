"""`python -m dro_trl` is `dro-trl`; `accelerate launch -m dro_trl train ...` starts it on several processes."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # The working directory, whose files may be called as libraries are; it is looked in last.
    from dro_trl.cli.app import main

    main()
