"""What a trainer logs and evaluates."""

import logging

from datasets import Dataset
from transformers import TrainerCallback

from dro_trl.trainer.monitoring import MEMORISED
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import (
    changed,
    logged,
    make_trainer,
    questions,
    weights_of,
)


def test_evaluation_measures_the_same_things_each_time(tmp_path):
    trainer = make_trainer(
        tmp_path, eval_dataset=questions(), per_device_eval_batch_size=3, eval_strategy="steps", eval_steps=1
    )
    first, again = trainer.evaluate(), trainer.evaluate()
    names = ("loss", "reward", "iw_bound", "ess", "entropy", "frac_unique_selections", "selection_recall")
    assert {f"eval_{name}": first[f"eval_{name}"] for name in names} == {
        f"eval_{n}": again[f"eval_{n}"] for n in names
    }
    assert trainer.evaluate(metric_key_prefix="test")["test_reward"] == first["eval_reward"]
    before = weights_of(trainer)
    trainer.evaluate()
    assert changed(before, weights_of(trainer)) == set()
    trainer.train()
    assert len(logged(trainer, "eval_reward")) == 2 == len(logged(trainer, "reward"))
    assert logged(trainer, "eval_reward")[0] != first["eval_reward"]


def test_the_best_checkpoint_is_kept_by_a_measure_of_ours(tmp_path):
    def drop(trainer_state):  # A reward that is best after the first step, so that the best is not the last.
        return -abs(trainer_state.global_step - 1)

    def rising_then_falling(selections, **kwargs):
        return [float(drop(trainer.state))] * len(selections)

    trainer = make_trainer(
        tmp_path,
        reward_funcs=rising_then_falling,
        eval_dataset=questions(),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_reward",
        greater_is_better=True,
    )
    kept = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kept[state.global_step] = weights_of(trainer)

    trainer.add_callback(Keep())
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert changed(kept[1], kept[3]) != set()
    assert changed(kept[1], weights_of(trainer)) == set()


def test_the_table_of_selections_is_printed_now_and_then(tmp_path, capsys):
    make_trainer(tmp_path, log_selections=True, num_selections_to_print=1, logging_steps=2, max_steps=4).train()
    printed = capsys.readouterr().out
    assert printed.count("Sampled selections at step 2") == 1 == printed.count("Sampled selections at step 4")
    assert "step 1" not in printed
    assert "[1] >" in printed or "[2] >" in printed or "[3] >" in printed or "[4] >" in printed


def test_a_collapse_reaches_the_log(tmp_path, caplog):
    def all_the_same(selections, **kwargs):
        return [1.0] * len(selections)

    rows = Dataset.from_list(tiny_questions(6, 6, 6, 6)).remove_columns("gold_ids")
    flat = tiny_model("llama", tiny_tokenizer(), initializer_range=0.001)
    trainer = make_trainer(
        tmp_path, model=flat, train_dataset=rows, reward_funcs=all_the_same, train_generator=False, max_steps=4
    )
    trainer.monitor.collapse.window = 3
    with caplog.at_level(logging.WARNING):
        trainer.train()
    beginning = MEMORISED.partition(":")[0]
    assert [beginning in record.getMessage() for record in caplog.records].count(True) == 1
