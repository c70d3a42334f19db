"""`dro-trl estimate`: what it reads, what it refuses, and one estimate against a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from tests.helpers.training import save_start, write_recipe

ROOT = Path(__file__).resolve().parents[2]
ZERO3 = str(ROOT / "recipes" / "accelerate" / "zero3.yaml")


def estimate(tmp_path, *arguments):
    """Run the command; return its JSON and what it printed."""
    output = tmp_path / "estimate.json"
    result = CliRunner().invoke(app, ["estimate", *arguments, "--output", str(output), "--flops_per_second", "1e9"])
    assert result.exit_code == 0, result.output
    assert f"Results: {output}" in result.output
    return json.loads(output.read_text()), result.output


def test_lengths_are_those_of_the_data(tmp_path):
    """Without weights: the folder holds a configuration and a tokenizer. Four questions in two steps of two."""
    folder = Path(save_start(tmp_path / "start"))
    (folder / "model.safetensors").unlink()
    recipe = write_recipe(tmp_path)
    found, printed = estimate(tmp_path, "--config", recipe)
    assert found["lengths"]["source"] == f"4 of 4 rows of {tmp_path / 'train.jsonl'}"
    assert found["lengths"]["longest"]["selector"] > found["lengths"]["mean"]["selector"] > 50
    assert (found["time"]["steps"], found["time"]["questions_of_a_step"]) == (2, 2)
    assert found["time"]["seconds"] == pytest.approx(2 * found["time"]["flops_of_a_step"] / 0.4e9)
    assert found["memory"]["peak"] == max(found["memory"]["moments"].values())
    assert found["memory"]["peak_moment"] in printed
    fewer, _ = estimate(tmp_path, "--config", recipe, "--max_train_samples", "2")
    assert fewer["time"]["steps"] == 1
    other, _ = estimate(tmp_path, "--config", recipe, "--num_selections", "6")
    assert other["memory"]["generator"]["kept"] > found["memory"]["generator"]["kept"]
    assert other["memory"]["selector"]["kept"] == found["memory"]["selector"]["kept"]


def test_questions_that_are_left_out_are_not_counted(tmp_path):
    """One of four has its answer in a passage, and a longer one behind what is cut."""
    save_start(tmp_path / "start")
    recipe = write_recipe(tmp_path, answerable_only=True, per_device_train_batch_size=1, max_passage_tokens=40)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "answers": ["nowhere"]} for line in lines]
    rows[2]["answers"], rows[2]["candidates"][3]["text"] = ["a stadium"], "built a stadium"
    rows[3]["answers"], rows[3]["candidates"][0]["text"] = ["a tower"], "many words " * 60 + "and a tower"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = estimate(tmp_path, "--config", recipe)
    assert found["lengths"]["source"] == f"4 of 4 rows of {tmp_path / 'train.jsonl'}, 1 of them answerable"
    assert (found["lengths"]["num_questions"], found["time"]["steps"]) == (1, 1)
    assert found["lengths"]["longest"] == found["lengths"]["mean"]
    rows[2]["answers"] = ["a palace"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed = CliRunner().invoke(app, ["estimate", "--config", recipe, "--flops_per_second", "1e9"])
    assert failed.exit_code != 0
    assert "answerable_only=True leaves nothing to train on; set it to False" in failed.output + str(failed.exception)


def test_stated_lengths_and_known_sizes(tmp_path):
    """N = 20 passages of 100 + 3 tokens, a question of 10 and 12 around it; K = 2 for the generator.

    Attention compares half of 22 x 22 pairs in the prompt, and 103 x 125 for each passage, which needs a mask.
    """
    recipe = write_recipe(tmp_path, dataset_name="owner/questions", model_name_or_path="Qwen/Qwen2.5-0.5B-Instruct")
    given = ["--passage_tokens", "100", "--question_tokens", "10", "--answer_tokens", "4", "--num_questions", "50"]
    found, _ = estimate(tmp_path, "--config", recipe, *given)
    lengths = {"selector": 2082, "selector_rows": 1, "selector_kept": 20, "generator": 226, "answer": 4}
    of_passages = {"pairs": 22**2 / 2 + 20 * 103 * 125, "keys": 22, "repeated": 20 * 125, "mask": 103 * 125}
    lengths |= {"selector_compared": of_passages | {"masks": 1}, "selector_longest": 125}
    assert found["lengths"]["mean"] == lengths
    separate = ("--policy_kwargs", '{"item_score": "query_likelihood"}')
    in_rows, _ = estimate(tmp_path, "--config", recipe, *given, *separate)
    lengths |= {"selector": 113, "selector_rows": 20, "selector_kept": 200}
    lengths |= {"selector_compared": None, "selector_longest": 0}
    assert in_rows["lengths"]["mean"] == lengths
    assert found["models"]["selector"]["parameters"] == 494_032_768
    assert found["time"]["steps"] == 25
    written, _ = estimate(tmp_path, "--config", recipe, *given, "--policy", "dro_trl.AutoregressivePolicy")
    assert written["lengths"]["mean"]["selector"] == 2082 + 3 * 2 * 4
    assert written["time"]["flops_of_a_question"]["drawing"] > 0
    single, _ = estimate(tmp_path, "--config", recipe, *given, "--policy_kwargs", '{"proposal": "every_passage"}')
    assert single["lengths"]["mean"]["generator"] == 226 - 103
    labelled, _ = estimate(tmp_path, "--config", recipe, *given, "--loss_type", "supervised")
    of_gold, of_three = (e["time"]["flops_of_a_question"]["generator"] for e in (labelled, found))
    assert 3 * of_gold == pytest.approx(of_three)


def test_a_budget_bounds_what_the_generator_keeps(tmp_path):
    """Two questions of three selections of 226 tokens: all six, or two, in a pass; two thirds are read twice."""
    recipe = write_recipe(tmp_path, dataset_name="owner/questions", model_name_or_path="Qwen/Qwen2.5-0.5B-Instruct")
    given = ["--passage_tokens", "100", "--question_tokens", "10", "--answer_tokens", "4"]
    whole, _ = estimate(tmp_path, "--config", recipe, *given)
    parts, _ = estimate(tmp_path, "--config", recipe, *given, "--scoring_token_budget", "500")
    for name in ("kept", "forward", "backward", "logits"):
        assert parts["memory"]["generator"][name] == pytest.approx(whole["memory"]["generator"][name] / 3)
    assert parts["memory"]["selector"] == whole["memory"]["selector"]
    flops = parts["time"]["flops_of_a_question"]
    extra = parts["time"]["flops_of_a_step"] - whole["time"]["flops_of_a_step"]
    assert extra == pytest.approx(2 * flops["recomputation"])
    assert 3 < flops["generator"] / flops["recomputation"] < 5, "a third of three times as much, and what a head costs"
    frozen, _ = estimate(tmp_path, "--config", recipe, *given, "--scoring_token_budget", "500", "--no_train_generator")
    assert "recomputation" not in frozen["time"]["flops_of_a_question"]


def test_sharding_divides_the_state(tmp_path):
    recipe = write_recipe(tmp_path, dataset_name="owner/questions", model_name_or_path="qwen2.5-0.5b", use_cpu=False)
    eight, _ = estimate(tmp_path, "--config", recipe, "--accelerate_config", ZERO3)
    two, _ = estimate(tmp_path, "--config", recipe, "--accelerate_config", ZERO3, "--num_processes", "2")
    for name in ("weights", "gradients", "optimizer"):
        assert two["memory"]["state"][name] == 4 * eight["memory"]["state"][name]
    assert eight["memory"]["state"]["optimizer"] == 12 * 2 * 494_032_768 / 8
    assert eight["backend"] | {"name": "ZeRO-3", "processes": 8, "gpu": True} == eight["backend"]
    stage2, _ = estimate(tmp_path, "--config", recipe, "--backend", "ZeRO-2", "--num_processes", "8", "--bf16")
    assert stage2["memory"]["state"]["weights"] == 8 * eight["memory"]["state"]["weights"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_selectd", "2"], "unknown key 'num_selectd'; did you mean 'num_selected'?"),
        (["--model_config", "nowhere"], "give --model_config a folder, a config.json, or one of gemma-3-270m"),
        (["--backend", "ZeRO-9"], "--backend 'ZeRO-9' is unknown; use one of"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    recipe = write_recipe(tmp_path, model_name_or_path="qwen2.5-0.5b")
    result = CliRunner().invoke(app, ["estimate", "--config", recipe, *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_memory_against_a_measured_run(tmp_path):
    """Qwen2 of 12M and Gemma 3 of 40M weights, all trained, each in a process of its own: within a quarter."""
    program = ROOT / "examples" / "benchmarks" / "estimate_against_measured.py"
    output, names = tmp_path / "compared.json", ["small, full", "Gemma 3"]
    command = [sys.executable, str(program), "--only", *names, "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    ratios = {row["configuration"]: row["memory_ratio"] for row in json.loads(output.read_text())}
    assert ratios.keys() == set(names)
    assert all(0.75 <= ratio <= 1.25 for ratio in ratios.values()), ratios


LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    ("case", "shared"),
    [("whole", False), ("another adapter", False)]
    + [(case, shared) for case in ("new adapter", "adapter that goes on") for shared in (False, True)],
)
def test_a_copy_to_measure_from_is_counted_where_a_run_makes_one(tmp_path, case, shared):
    """Its bytes are those of the copy that the trainer holds, and of nothing where it holds none."""
    start = save_start(tmp_path / "start")
    lines = {"shared_base": shared, "kl_coef": 0.1, **({} if case == "whole" else LORA)}
    if "go" in case or "other" in case:
        first = write_recipe(tmp_path, **lines | {"kl_coef": 0.0, "output_dir": str(tmp_path / "first")})
        run_recipe(*parse_recipe(["--config", first]))
        start = str(tmp_path / "first" / ("" if shared else "selector"))
    rank = {"lora_r": 2} if "other" in case else {}
    recipe = write_recipe(tmp_path, model_name_or_path=start, **lines | rank)
    with_copy, without = (estimate(tmp_path, "--config", recipe, "--kl_coef", kl)[0] for kl in ("0.1", "0.0"))
    counted = with_copy["memory"]["state"]["weights"] - without["memory"]["state"]["weights"]
    reference = run_recipe(*parse_recipe(["--config", recipe])).model.reference
    held = 0 if reference is None else sum(p.numel() * p.element_size() for p in reference.parameters())
    assert (held > 0) == (case in ("whole", "adapter that goes on"))
    assert counted == held
