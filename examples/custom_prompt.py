"""Train and ask with prompts of other words: here German ones, with an instruction for the generator.

    python examples/custom_prompt.py --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl

Sampling, training, rewards that generate and `RAGPipeline` all read these; `dro_config.json` keeps them.
"""

import argparse

from peft import LoraConfig

from dro_trl import DROConfig, DROTrainer, RAGPipeline, load_rag_dataset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="the selector's and the generator's start: folder or hub name")
parser.add_argument("--dataset", required=True, help="questions with candidates")
parser.add_argument("--output_dir", default="custom_prompt")
parser.add_argument("--max_steps", type=int, default=100)
options = parser.parse_args()

dataset = load_rag_dataset(options.dataset)
trainer = DROTrainer(
    model=options.model,
    args=DROConfig(
        options.output_dir,
        num_selected=2,
        max_steps=options.max_steps,
        per_device_train_batch_size=4,
        report_to="none",
        prompt_texts={
            "passage": "Absatz:",
            "question": "Frage:",
            "answer": "Antwort:",
            "useful": "Hilft dieser Absatz?",
            "scoring_instruction": "Welche Absätze helfen, die Frage zu beantworten?",
            "generator_instruction": "Beantworte die Frage mit wenigen Worten.",
        },
    ),
    train_dataset=dataset,
    peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model()
print(RAGPipeline.from_pretrained(options.output_dir).predict([dataset[0]])[0])
