"""A command line or two for the help of each command, by its name."""

EXAMPLES = {
    "quickstart": """
        dro-trl quickstart
        dro-trl quickstart --fast --output_dir /tmp/quickstart
    """,
    "run": """
        dro-trl run --config natural_questions --dry_run
        dro-trl run --config hotpotqa --until retrieve
    """,
    "index": """
        dro-trl index --corpus corpus.jsonl --index_dir index
    """,
    "retrieve": """
        dro-trl retrieve --index_dir index --input dev.jsonl --output data/dev.top20.jsonl --num_candidates 20
    """,
    "prepare": """
        dro-trl prepare --format hotpotqa --input hotpot_dev_distractor_v1.json --output data/dev.jsonl
        dro-trl prepare --format natural_questions --input nq_open --split train --output data/train.jsonl
    """,
    "mix": """
        dro-trl mix --input hotpotqa.jsonl musique.jsonl --output train.jsonl
    """,
    "estimate": """
        dro-trl estimate --config qwen_7b_8gpu --accelerate_config zero3 --num_questions 10000
    """,
    "warmup": """
        dro-trl warmup selector --config encyclopedia --teacher gold
        dro-trl warmup generator --config encyclopedia
    """,
    "train": """
        dro-trl train --config quickstart
        dro-trl train --config quickstart --learning_rate 1e-4 --no_train_generator
        accelerate launch --num_processes 2 -m dro_trl train --config qwen_0.5b_lora_24gb
    """,
    "evaluate": """
        dro-trl evaluate --model_name_or_path runs/wikimultihop --dataset_name data/dev.top20.jsonl
        dro-trl evaluate --model_name_or_path runs/wikimultihop --dataset_name data/dev.top20.jsonl --systems oracle
    """,
    "compare": """
        dro-trl compare --config encyclopedia --model_name_or_path models/gemma-3-270m
        dro-trl compare --config encyclopedia --report_only
    """,
    "ask": """
        dro-trl ask "Who discovered radium?" --model_name_or_path runs/wikimultihop --index_dir index
    """,
    "rerank": """
        dro-trl rerank --run old.trec --input dev.jsonl --index_dir index --output new.trec --model_name_or_path pair
    """,
    "serve": """
        dro-trl serve --model_name_or_path runs/wikimultihop --index_dir index
        dro-trl serve --model_name_or_path runs/wikimultihop --selector_only --port 8080
    """,
    "demo": """
        dro-trl demo --model_name_or_path runs/wikimultihop --index_dir index
    """,
    "merge": """
        dro-trl merge --model_name_or_path runs/wikimultihop --output_dir runs/wikimultihop-whole
    """,
    "gemma": """
        dro-trl gemma --output_dir models/gemma-3-270m
    """,
    "recipes": """
        dro-trl recipes
        dro-trl recipes accelerate/zero3
    """,
    "env": """
        dro-trl env
    """,
}
