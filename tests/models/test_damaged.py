"""A saved pair that was damaged answers as it did, or is refused in one line that names a file of it."""

import shutil

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from dro_trl import RAGPipeline
from dro_trl.cli.app import is_expected
from dro_trl.models.files import ADAPTER_CONFIG
from dro_trl.models.saving import merge_adapters
from tests.helpers.damages import BYTES, TENSORS, damages, files_of, remove, rewrite, tensors
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import LORA, make_trainer, save_start

ROWS = tiny_questions(4, 6)
DORA = LoraConfig(**{**LORA.to_dict(), "use_dora": True})
KINDS = {"full": None, "sharded": None, "LoRA": LORA, "shared": LORA, "DoRA": DORA}


def answers(folder):
    outputs = RAGPipeline.from_pretrained(folder, dtype="float32").predict(ROWS, max_new_tokens=4)
    return [(output.answer, [p["id"] for p in output.passages]) for output in outputs], [o.scores for o in outputs]


def trained_parts(trainer):
    model = trainer.model
    return model.selector, model.generator, model.policy, trainer.tokenizers["generator"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder for each kind, with a start and a pair whose weights are far from it; and what it answers."""
    root, found = tmp_path_factory.mktemp("pairs"), {}
    for kind, peft_config in KINDS.items():
        start = save_start(root / kind / "start")
        trainer = make_trainer(
            root / kind / "pair", model=start, peft_config=peft_config, shared_base=kind == "shared", num_candidates=7
        )
        torch.manual_seed(1)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
        trainer.save_model()
        if kind == "sharded":
            for part in ("selector", "generator"):
                shard(root / kind / "pair" / part)
        found[kind] = answers(root / kind / "pair")
        in_memory = RAGPipeline(*trained_parts(trainer)).predict(ROWS, max_new_tokens=4)
        assert [output.answer for output in in_memory] == [answer for answer, _ in found[kind][0]]
        for output, scores in zip(in_memory, found[kind][1], strict=True):
            assert output.scores == pytest.approx(scores, abs=1e-5)
        assert found[kind][1] != [
            output.scores for output in RAGPipeline.from_start(root / kind / "pair", dtype="float32").predict(ROWS)
        ]
    return root, found


def shard(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="70KB")
    assert len(list(folder.glob("model-*.safetensors"))) == 3


def copy_of(root, kind, folder):
    """Copy a start and its pair to another folder, of which the pair's files speak then; return the pair."""
    shutil.copytree(root / kind, folder, dirs_exist_ok=True)
    for path in folder.rglob("*.json"):
        if path.name in (ADAPTER_CONFIG, "dro_config.json"):
            path.write_text(path.read_text().replace(str(root / kind), str(folder)))
    return folder / "pair"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(error, folder):
    assert is_expected(error), repr(error)
    assert "\n" not in str(error)
    assert str(folder) in str(error)


@pytest.mark.parametrize(("kind", "damage"), [(kind, name) for kind in KINDS for name in damages(kind)])
def test_right_or_refused(tmp_path, pairs, kind, damage):
    root, expected = pairs
    pair = copy_of(root, kind, tmp_path)
    before = contents(tmp_path)
    damages(kind)[damage](pair)
    assert contents(tmp_path) != before
    try:
        found = answers(pair)
    except Exception as error:
        assert_one_line(error, tmp_path)
        return
    assert found[0] == expected[kind][0]
    for one, other in zip(found[1], expected[kind][1], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def resume(pair, kind):
    make_trainer(
        pair.parent / "resumed",
        model=str(pair.parent / "start"),
        peft_config=KINDS[kind],
        shared_base=kind == "shared",
        max_steps=1,
    )._load_from_checkpoint(str(pair))


ROUTES = {
    "evaluate --pair start": lambda pair, kind: RAGPipeline.from_start(pair),
    "merge": lambda pair, kind: merge_adapters(pair, pair.parent / "merged"),
    "resume": resume,
}


@pytest.mark.parametrize(
    "how", ["one lost", "one too many", "one of another shape", "a NaN", "cut in half", "removed"]
)
@pytest.mark.parametrize(
    ("route", "kind"),
    [
        ("evaluate --pair start", "full"),
        ("merge", "LoRA"),
        ("merge", "DoRA"),
        ("merge", "shared"),
        ("resume", "full"),
        ("resume", "LoRA"),
        ("resume", "DoRA"),
        ("resume", "shared"),
    ],
)
def test_every_route_refuses(tmp_path, pairs, route, kind, how):
    pair = copy_of(pairs[0], kind, tmp_path)
    ROUTES[route](pair, kind)
    shutil.rmtree(tmp_path / "merged", ignore_errors=True)
    name = "../start/model.safetensors" if route == "evaluate --pair start" else files_of(kind)[1]
    damage = remove(name) if how == "removed" else rewrite(name, BYTES[how]) if how in BYTES else None
    (damage or tensors(name, TENSORS[how]))(pair)
    with pytest.raises((ValueError, OSError)) as raised:
        ROUTES[route](pair, kind)
    assert_one_line(raised.value, tmp_path)
    assert not (tmp_path / "merged").exists()
