"""Damaged files of a saved pair: it answers as it did, or as its config says now, or is refused with a file's name."""

import json
import math

import pytest
import torch
from hypothesis import strategies as st

from dro_trl import RAGPipeline
from dro_trl.models.files import ADAPTER_CONFIG
from tests.fuzz.mutations import file_of, json_text, mutated
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt, holding
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import LORA, make_trainer, save_start

ROWS = tiny_questions(4, 6)
KINDS = {"full": None, "LoRA": LORA}
JSON_FILES = {
    "full": ("config.json", "generation_config.json", "tokenizer_config.json"),
    "LoRA": (ADAPTER_CONFIG, "generation_config.json", "tokenizer_config.json"),
}
WEIGHTS = {"full": "model.safetensors", "LoRA": "adapter_model.safetensors"}
MOST = 1_000
"""No number in a model's config is larger: it would be built, layer by layer, before it is found to be another."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder for each kind, whose weights are far from the start's."""
    root = tmp_path_factory.mktemp("pairs")
    for kind, peft_config in KINDS.items():
        start = save_start(root / kind / "start")
        trainer = make_trainer(root / kind / "pair", model=start, peft_config=peft_config, num_candidates=7)
        torch.manual_seed(1)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
        trainer.save_model()
    return root


def answers(pair):
    pipeline = RAGPipeline.from_pretrained(pair, dtype="float32", device="cpu")
    outputs = pipeline.predict(ROWS, max_new_tokens=4)
    return pipeline, [(output.answer, [p["id"] for p in output.passages], output.scores) for output in outputs]


def is_small(value):
    """Whether no number is large, and no text long."""
    if isinstance(value, dict | list):
        return all(map(is_small, value.values() if isinstance(value, dict) else value))
    return value != value or abs(value) <= MOST if isinstance(value, int | float) else len(str(value)) <= MOST


@st.composite
def damages(draw, root):
    """Draw a kind of pair, a file of it and what that holds."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    part = draw(st.sampled_from(["selector", "generator"]))
    name = draw(
        st.sampled_from(["dro_config.json", *(f"{part}/{name}" for name in (*JSON_FILES[kind], WEIGHTS[kind]))])
    )
    content = (root / kind / "pair" / name).read_bytes()
    if not name.endswith(".json"):
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        text = draw(json_text(draw(mutated(st.just(header)))))
        text = text.encode("utf-8", "surrogatepass")
        return kind, name, len(text).to_bytes(8, "little") + text + content[8 + size :]
    value = draw(mutated(st.just(json.loads(content))).filter(is_small))
    return kind, name, draw(file_of(draw(json_text(value))))


def check(root, expected, kind, name, content):
    pair = root / kind / "pair"
    with holding(pair / name, content) as before:
        found, _ = attempt(lambda: answers(pair), root / kind)
    if found is None:
        assert content != before
        return REFUSED
    pipeline, outputs = found
    if name == "dro_config.json":
        config = json.loads(content)
        for option in ("num_candidates", "max_passage_tokens"):
            assert getattr(pipeline, option) == config[option]
        assert pipeline.policy.num_selected == config["num_selected"]
    if name.endswith(WEIGHTS[kind]):
        assert outputs == expected[kind]
    assert all(math.isfinite(score) for _, _, scores in outputs for score in scores)
    return RIGHT


def test_pairs(pairs, explore):
    expected = {kind: answers(pairs / kind / "pair")[1] for kind in KINDS}
    explore(damages(pairs), lambda damage: check(pairs, expected, *damage), 60)
