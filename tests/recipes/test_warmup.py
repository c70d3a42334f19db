"""Warm-up: what is learnt is what DRO itself computes, and what comes of it is where a DRO run can start."""

import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from dro_trl import AutoregressivePolicy, PlackettLucePolicy
from dro_trl.lm.prompts import PromptTexts
from dro_trl.lm.turns import saved_turns, turns_of
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.loading import load_model, load_tokenizer
from dro_trl.models.saving import read_config
from dro_trl.policies import autoregressive
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from dro_trl.recipes.warmup import parse_warmup, run_warmup
from dro_trl.trainer import warmup_teachers
from dro_trl.trainer.warmup_config import WarmupConfig
from dro_trl.trainer.warmup_trainer import SelectorWarmupTrainer
from tests.helpers import training
from tests.helpers.templates import template_of, with_template
from tests.helpers.tiny_models import all_selections, tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import changed, make_trainer, save_start, write_recipe

LORA = {
    "use_peft": True,
    "lora_r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "lora_target_modules": ["q_proj", "v_proj"],
}


def two_golds():
    """Five questions of which the second and the fourth have two gold passages, the others one."""
    rows = tiny_questions(4, 5, 4, 6, 5)
    for b in (1, 3):
        rows[b]["gold_ids"] = [f"{b}-3", f"{b}-1"]
    return rows


def recipe_of(folder, rows=None, **lines):
    """Write a recipe of a warm-up from a tiny model; return its path."""
    if not (folder / "start").exists():
        save_start(folder / "start")
    path = write_recipe(folder, **{"num_selections": None, "disable_tqdm": True, "learning_rate": 0.01, **lines})
    if rows is not None:
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def warm_up(part, path, **options):
    given = [f"--{name}={value}" for name, value in options.items()]
    return run_warmup(part, *parse_warmup(["--config", path, *given]))


def results_of(folder):
    return json.loads((folder / "warmup_results.json").read_text())


class StrictPolicy(PlackettLucePolicy):
    """One of the user's own, which knows of no padding and writes down what it is asked."""

    asked: list[tuple[int, ...]] = []

    def logps(self, model, inputs, selections):
        assert int(selections.min()) >= 0
        self.asked.append(tuple(selections.shape))
        return super().logps(model, inputs, selections)


def trainer_of(policy, folder, rows, selections):
    args = WarmupConfig(str(folder), use_cpu=True, report_to="none", disable_tqdm=True)
    dataset = Dataset.from_list(rows).add_column("selection", selections)
    model = tiny_model("llama", policy.tokenizer)
    return SelectorWarmupTrainer(
        policy, model=model, args=args, train_dataset=dataset, processing_class=policy.tokenizer
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda tokenizer: AutoregressivePolicy(tokenizer, 3),
        lambda tokenizer: PlackettLucePolicy(tokenizer, 3, retriever_prior=0.5),
        lambda tokenizer: PlackettLucePolicy(tokenizer, 3, item_score="passage_end"),
        lambda tokenizer: StrictPolicy(tokenizer, 3, item_score="query_likelihood", score_temperature=10.0),
    ],
    ids=["autoregressive", "pointwise", "passage end", "of one's own"],
)
def test_the_loss_is_minus_the_enumerated_log_probability(tmp_path, make):
    """p(z) of a shorter selection is the sum of p over all selections of K = 3 that begin with it."""
    policy = make(tiny_tokenizer())
    rows = tiny_questions(4, 4, 5)
    selections = [[2], [3, 0, 1], [4]]
    trainer = trainer_of(policy, tmp_path, rows, selections)
    trainer.model.eval()
    expected = []
    for row, selection in zip(rows, selections, strict=True):
        every = all_selections(len(row["candidates"]), 3)
        with torch.no_grad():
            probs = policy.logps(trainer.model, policy.encode([row]), every[None]).logps[0].double().exp()
        assert float(probs.sum()) == pytest.approx(1, abs=1e-5)
        begins = (every[:, : len(selection)] == torch.tensor(selection)).all(-1)
        expected.append(math.log(float(probs[begins].sum())))
    StrictPolicy.asked.clear()
    read = []
    trainer.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    batch = trainer.data_collator(trainer.train_dataset.to_list())
    loss = trainer.compute_loss(trainer.model, batch)
    assert float(loss.detach()) == pytest.approx(-sum(expected) / 3, rel=1e-5)
    # Each question's prompt is computed once, without padding, and the selection that is written behind it.
    encoded = [policy.encode([row]) for row in rows]
    if isinstance(policy, AutoregressivePolicy):
        written = [
            len(autoregressive.Path.of(policy, len(row["candidates"]), z).tokens)
            for row, z in zip(rows, selections, strict=True)
        ]
        assert sum(read) == sum(written) + sum(len(inputs.prompt_ids[0]) for inputs in encoded)
    else:
        assert sum(read) == sum(int((inputs.batch.segments >= 0).sum()) for inputs in encoded)
    loss.backward()
    assert trainer.model.lm_head.weight.grad.abs().sum() > 0
    if isinstance(policy, StrictPolicy):
        assert StrictPolicy.asked == [(2, 1, 1), (1, 1, 3)]


@pytest.mark.parametrize("policy", ["dro_trl.PlackettLucePolicy", "dro_trl.AutoregressivePolicy"])
def test_a_selector_learns_the_gold_passages(tmp_path, policy):
    path = recipe_of(
        tmp_path, two_golds(), policy=policy, num_train_epochs=12, learning_rate=0.003, shuffle_candidates=False
    )
    trainer = warm_up("selector", path)
    results = results_of(tmp_path / "out")
    assert results["loss_end"] < 0.5 * results["loss_start"]
    assert (results["num_questions"], results["num_shorter_than_k"], results["steps"]) == (5, 3, 36)
    rows = two_golds()
    recalls = []
    for folder in ("start", "out"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        best, _ = trainer.policy.best(model, trainer.policy.encode(rows))
        found = [{row["candidates"][i]["id"] for i in z} for row, z in zip(rows, best.tolist(), strict=True)]
        hits = [len(ids & set(row["gold_ids"])) for ids, row in zip(found, rows, strict=True)]
        recalls.append(sum(hits) / 7)
    assert recalls[0] < 0.7
    assert recalls[1] == 1


def test_what_the_generator_learns_is_what_dro_scores(tmp_path):
    texts = {"generator_instruction": "Answer briefly.", "answer": "A:"}
    path = recipe_of(tmp_path, two_golds(), prompt_texts=texts, max_passage_tokens=12, per_device_train_batch_size=5)
    trainer = warm_up("generator", path, max_steps=1, learning_rate=0)
    scorer = AnswerScorer(load_tokenizer(str(tmp_path / "start")), texts=PromptTexts(**texts))
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs["input_ids"])

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    rows = tmp_path / "train.jsonl"
    total = tokens = 0
    train, _ = teachers_rows(rows, max_passage_tokens=12)
    for row, example in zip(train, trainer.train_dataset, strict=True):
        gold = [p["id"] for p in row["candidates"] if p["id"] in row["gold_ids"]]
        gold.sort(key=lambda id: int(id[2:]))
        rest = sorted((p["id"] for p in row["candidates"] if p["id"] not in gold), key=lambda id: int(id[2:]))
        place = {p["id"]: i for i, p in enumerate(row["candidates"])}
        selection = [place[id] for id in (gold + rest)[:2]]
        with torch.no_grad():
            logps, mask = scorer.logps(trainer.model, [row], torch.tensor([[selection]]))
        assert seen[-1].tolist() == [example["input_ids"]]
        answer = [label for label in example["labels"] if label != -100]
        assert answer == example["input_ids"][-len(answer) :]
        assert len(answer) == int(mask.sum())
        assert load_tokenizer(str(tmp_path / "start")).decode(answer).strip() == row["answers"][0]
        total, tokens = total + float(logps.sum()), tokens + len(answer)
    assert results_of(tmp_path / "out")["loss_start"] == pytest.approx(-total / tokens, rel=1e-4)


def teachers_rows(path, **options):
    """The rows of a warm-up as they are prepared for it."""
    args = WarmupConfig(str(path.parent / "unused"), use_cpu=True, num_selected=2, **options)
    dataset = Dataset.from_list([json.loads(line) for line in path.read_text().splitlines()])
    start = str(path.parent / "start")
    taught = warmup_teachers.teach(dataset, "rows", args, load_tokenizer(start), start, {}, training=True)
    return taught.dataset.to_list(), taught.selections


def test_a_dro_run_starts_from_what_was_merged(tmp_path):
    path = recipe_of(tmp_path, two_golds(), **LORA)
    for part in ("selector", "generator"):
        trainer = warm_up(part, path, output_dir=tmp_path / part)
        assert isinstance(trainer.model, PeftModel)
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / part)
        ids = torch.arange(20)[None]
        with torch.no_grad():
            merged, adapted = whole(ids).logits, trainer.model.eval()(input_ids=ids).logits
            start = AutoModelForCausalLM.from_pretrained(tmp_path / "start")(ids).logits
        assert torch.allclose(merged, adapted, atol=1e-4)
        assert not torch.allclose(merged, start, atol=1e-2)
        assert (tmp_path / part / "adapter" / "adapter_config.json").is_file()
        card = (tmp_path / part / "README.md").read_text()
        assert f"# A {part}, warmed up for DRO" in card
        assert "| `start` | `../start` |" in card
        assert ("`policy`" in card) == (part == "selector")
    lines = {"model_name_or_path": str(tmp_path / "selector"), "generator_name_or_path": str(tmp_path / "generator")}
    (tmp_path / "dro").mkdir()
    path = write_recipe(tmp_path / "dro", **lines, **LORA, disable_tqdm=True)
    trained = run_recipe(*parse_recipe(["--config", path]))
    for part in ("selector", "generator"):
        before = load_file(tmp_path / part / "model.safetensors")
        base = getattr(trained.model, part).get_base_model().state_dict()
        name = "model.layers.0.self_attn.q_proj"
        assert torch.equal(before[f"{name}.weight"], base[f"{name}.base_layer.weight"])
    assert read_config(tmp_path / "dro" / "out")["start"] == {
        "selector": str(tmp_path / "selector"),
        "generator": str(tmp_path / "generator"),
    }


@pytest.mark.parametrize("part", ["selector", "generator"])
def test_resuming_is_exact_and_asks_no_teacher_again(tmp_path, part, monkeypatch):
    lines = {"teacher": "likelihood", "save_strategy": "steps", "save_steps": 3, "num_train_epochs": 2}
    path = recipe_of(tmp_path, two_golds(), **lines)
    warm_up(part, path)
    whole, results = load_file(tmp_path / "out" / "model.safetensors"), results_of(tmp_path / "out")
    ranked = json.loads((tmp_path / "out" / "teacher_likelihood.train_dataset.json").read_text())["ranked"]
    assert [len(one) for one in ranked] == [4, 5, 4, 6, 5]
    (tmp_path / "out" / "checkpoint-6" / "trainer_state.json").unlink()

    def refuse(*args, **kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr(warmup_teachers, "score_answers", refuse)
    warm_up(part, path, resume=True)
    assert changed(whole, load_file(tmp_path / "out" / "model.safetensors")) == set()
    again = results_of(tmp_path / "out")
    assert {**again, "seconds": 0} == {**results, "seconds": 0}
    with pytest.raises(ValueError, match="learning_rate was 0.01 and is now 0.5"):
        warm_up(part, path, resume=True, learning_rate=0.5)
    save_start(tmp_path / "start")
    with pytest.raises(AssertionError, match="asked again"):  # By other files of the same name.
        warm_up(part, path)


@pytest.mark.parametrize("lora", [{}, LORA], ids=["full", "LoRA"])
def test_a_damaged_checkpoint_is_refused(tmp_path, lora):
    path = recipe_of(tmp_path, save_strategy="steps", save_steps=1, max_steps=2, teacher="gold", **lora)
    warm_up("selector", path)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    file = checkpoint / ("adapter_model.safetensors" if lora else "model.safetensors")
    weights = load_file(file)
    lost = weights.pop(sorted(weights)[0], None)
    assert lost is not None
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{file} does not fit the model: missing: "):
        warm_up("selector", path, resume=True)


def test_a_warm_up_takes_the_place_of_an_earlier_one(tmp_path):
    """Whatever kind either is: the folder holds one whole model, and other things stay."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "chat_template.jinja").write_text("of an earlier tokenizer")
    kinds = {}
    for kind, lora in {"LoRA": LORA, "full": {}, "LoRA again": LORA}.items():
        warm_up("selector", recipe_of(tmp_path, max_steps=1, teacher="gold", save_strategy="no", **lora))
        kinds[kind] = {path.name for path in (tmp_path / "out").iterdir()}
        load_model(str(tmp_path / "out"))
    assert kinds["LoRA"] == kinds["LoRA again"] == (kinds["full"] | {"adapter"}) - {"training_args.bin"}
    assert {"notes.txt", "model.safetensors", "config.json"} < kinds["full"]
    assert "chat_template.jinja" not in kinds["LoRA"]


def test_questions_without_a_gold_passage_are_left_out_and_counted(tmp_path):
    rows = two_golds()
    rows[0]["gold_ids"] = ["elsewhere"]
    rows[2]["gold_ids"] = None
    path = recipe_of(tmp_path, rows, eval_dataset_name=str(tmp_path / "train.jsonl"), eval_strategy="epoch")
    trainer = warm_up("selector", path)
    assert results_of(tmp_path / "out")["left_out"] == {"no gold passage among the candidates": 2}
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (3, 3)
    (evaluated,) = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert 0 < evaluated < math.inf


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"teacher": "golden"}, "teacher='golden' must be one of 'gold', 'likelihood', 'retriever', 'run'"),
        ({"teacher": "run"}, "teacher='run' and teacher_run=None do not go together"),
        ({"teacher_run": "a.run"}, "teacher='gold' and teacher_run='a.run' do not go together"),
        ({"num_selections": 4}, r"unknown key 'num_selections'; did you mean 'num_selected'\?"),
        ({"max_length": 4}, "unknown key 'max_length'"),
        ({"packing": True}, "unknown key 'packing'"),
        ({"num_selected": 0}, "num_selected=0 must be a whole number of at least 1"),
        ({"remove_unused_columns": True}, "leave it False"),
        ({"prompt_texts": {"anser": "A:"}}, "did you mean 'answer'"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, lines, message):
    path = write_recipe(tmp_path, **{"num_selections": None, **lines})
    with pytest.raises(ValueError, match=message):
        parse_warmup(["--config", path])


def test_options_are_those_of_dro_and_of_trl(tmp_path):
    path = write_recipe(tmp_path, num_selections=None, policy_kwargs={"item_score": "identifier"}, loss_type="dft")
    _, args, model = parse_warmup(["--config", path, "--policy_kwargs", '{"retriever_prior": 2.0}', "--lora_r", "3"])
    assert (args.policy_kwargs, args.loss_type, model.lora_r) == ({"retriever_prior": 2.0}, "dft", 3)
    assert (args.bf16, args.activation_checkpointing, args.max_length) == (False, False, None)
    assert Path(args.output_dir) == tmp_path / "out"


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "warmup").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_runs(path, tmp_path):
    """By the commands on its first lines, with a tiny model of as many layers and four rows."""
    layers = ["sliding_attention", "full_attention"] * 9
    start = save_start(tmp_path / "start", "gemma3", num_hidden_layers=18, layer_types=layers)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in two_golds()))
    for line, part in zip(path.read_text(encoding="utf-8").splitlines(), ("selector", "generator"), strict=False):
        assert line.startswith(f"# dro-trl warmup {part} --config {path.relative_to(ROOT)} ")
        given = {"model_name_or_path": start, "dataset_name": tmp_path / "train.jsonl", "output_dir": tmp_path / part}
        trainer = warm_up(part, str(path), **given)
        assert trainer.state.global_step == 2
        assert results_of(tmp_path / part)["num_questions"] == 5
        trained = {
            name.split(".layers.")[1].split(".")[0] for name, p in trainer.model.named_parameters() if p.requires_grad
        }
        assert trained == {str(number) for number in range(9, 18)}


@pytest.mark.parametrize("lora", [False, True])
def test_what_was_warmed_up_in_a_chat_template_is_read_in_it_further_on(tmp_path, lora):
    """It stops at the template's end, so that `chat: auto` finds it; and a pair's own turns are read in a warm-up."""
    tokenizer, base = with_template(template_of("qwen3")), str(tmp_path / "base")
    tiny_model("llama", tokenizer).save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapter, config = (LORA, training.LORA) if lora else ({}, None)
    warm = str(tmp_path / "warm")
    warm_up("generator", recipe_of(tmp_path, model_name_or_path=base, output_dir=warm, chat="true", **adapter))
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "</s>")}
    assert set(GenerationConfig.from_pretrained(warm).eos_token_id) == ends
    pair = make_trainer(tmp_path / "pair", model=warm, processing_class=None, peft_config=config)
    assert turns_of(pair.tokenizers["generator"]).chat
    other = make_trainer(tmp_path / "other", model=base, chat="true", peft_config=config)
    other.save_model()
    again = recipe_of(tmp_path, model_name_or_path=str(tmp_path / "other"), output_dir=str(tmp_path / "again"))
    assert warm_up("selector", again).turns == saved_turns(other.tokenizers)
