"""Train the selector with TRL's own GRPOTrainer or RLOOTrainer: the same questions, candidates, prompt and reward.

    python examples/stock_trl_grpo.py --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl

The selector writes `[3] > [1]` freely; `malformed/answer_log_likelihood` in the log is the share of what it wrote that
is no selection. The generator answers from the selected passages, is not trained, and its likelihood is the reward.
"""

import argparse

import torch
from accelerate import PartialState
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from dro_trl import AnswerLogLikelihood, DROConfig, SelectionReward, load_rag_dataset, trl_dataset

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
K = 2

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="the selector's and the generator's start: folder or hub name")
parser.add_argument("--dataset", required=True, help="questions with candidates")
parser.add_argument("--trainer", choices=TRAINERS, default="grpo")
parser.add_argument("--output_dir", default="stock_trl")
parser.add_argument("--max_steps", type=int, default=100)
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
generator = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").to(PartialState().device)
reward = SelectionReward(
    AnswerLogLikelihood(), num_selected=K, malformed_reward=-100, generator=generator, generator_tokenizer=tokenizer
)
trainer_class, config_class = TRAINERS[options.trainer]
trainer = trainer_class(
    model=options.model,
    reward_funcs=reward,
    args=config_class(
        options.output_dir,
        num_generations=8,
        per_device_train_batch_size=8,
        max_completion_length=8 * K,
        max_steps=options.max_steps,
        learning_rate=1e-4,
        logging_steps=1,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=trl_dataset(load_rag_dataset(options.dataset), DROConfig(num_selected=K), tokenizer),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model()
print(f"Selector: {options.output_dir}; malformed: {reward.num_malformed} of {reward.num_completions} completions")
