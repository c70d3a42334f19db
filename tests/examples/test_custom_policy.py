"""A policy of one's own: exact, by enumerating every selection, and trained by its dotted path."""

import json
import math
import runpy
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from dro_trl import RAGPipeline
from tests.examples.conftest import EXAMPLES
from tests.helpers.tiny_models import all_selections, random_generators, tiny_model, tiny_questions, tiny_tokenizer

TAUS = [2.0, 0.5]


@pytest.fixture(scope="module")
def policy():
    policy_class = runpy.run_path(str(EXAMPLES / "custom_policy.py"))["RankTemperaturePolicy"]
    return policy_class(tiny_tokenizer(), 2, rank_temperatures=TAUS)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", tiny_tokenizer())


def by_hand(scores, selection, temperature):
    """The product of each choice's probability among the candidates not yet taken, and the entropies' sum."""
    logp = entropy = 0.0
    for k, item in enumerate(selection):
        weights = {
            i: math.exp(s / TAUS[k] / temperature) for i, s in enumerate(scores) if i not in list(selection)[:k]
        }
        probs = {i: weight / sum(weights.values()) for i, weight in weights.items()}
        logp += math.log(probs[item])
        entropy -= sum(p * math.log(p) for p in probs.values())
    return logp, entropy


@torch.no_grad()
def test_every_selection_of_a_small_case(policy, model):
    """Rows of 3 and of 4 candidates in one batch; probabilities sum to 1, also those that were drawn from."""
    inputs = policy.encode(tiny_questions(3, 4))
    scores = policy.item_scores(model, inputs)
    for row, size in enumerate((3, 4)):
        every = all_selections(size, 2)
        one = policy.encode(tiny_questions(3, 4)[row : row + 1])
        found = policy.logps(model, one, every[None])
        expected = [by_hand(scores[row, :size].tolist(), z, 1.0) for z in every.tolist()]
        assert found.logps[0].tolist() == pytest.approx([logp for logp, _ in expected], abs=1e-4)
        assert float(found.logps.exp().sum()) == pytest.approx(1.0, abs=1e-5)
        assert float(found.entropy) == pytest.approx(sum(h for _, h in expected) / len(expected), abs=1e-4)
        tempered = policy.score(scores[row : row + 1, :size], every[None], 1.7).logps
        assert float(tempered.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_draws_follow_the_probabilities_whatever_the_batch(policy, model):
    rows = tiny_questions(4, 6)
    sample = policy.sample(model, policy.encode(rows), 4000, random_generators(2), temperature=1.5)
    alone = policy.sample(model, policy.encode(rows[:1]), 4000, random_generators(1), temperature=1.5)
    assert torch.equal(sample.selections[0], alone.selections[0])
    scores = policy.item_scores(model, policy.encode(rows[:1]))[0].tolist()
    every = [tuple(z) for z in all_selections(4, 2).tolist()]
    counts = Counter(map(tuple, alone.selections[0].tolist()))
    expected = [4000 * math.exp(by_hand(scores, z, 1.5)[0]) for z in every]
    likely = [i for i, count in enumerate(expected) if count >= 5]
    assert len(likely) >= 4
    observed = [counts[every[i]] for i in likely]
    rest = 4000 - sum(observed), 4000 - sum(expected[i] for i in likely)
    assert chisquare([*observed, rest[0] + 1e-9], [*(expected[i] for i in likely), rest[1] + 1e-9]).pvalue > 1e-3
    logps = [by_hand(scores, z, 1.0)[0] for z in alone.selections[0, :50].tolist()]
    behavior = [by_hand(scores, z, 1.5)[0] for z in alone.selections[0, :50].tolist()]
    assert alone.logps[0, :50].tolist() == pytest.approx(logps, abs=1e-4)
    assert alone.behavior_logps[0, :50].tolist() == pytest.approx(behavior, abs=1e-4)


def test_the_example(run_example, monkeypatch):
    """Trained, saved, and loaded again by what `dro_config.json` says of it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    (trainer,) = run_example("custom_policy.py", max_steps=2)["trainers"]
    assert trainer.state.global_step == 2
    saved = json.loads(Path("custom_policy/dro_config.json").read_text())
    assert saved["policy"] == "custom_policy.RankTemperaturePolicy"
    pipeline = RAGPipeline.from_pretrained("custom_policy", trust_remote_code=True)
    assert pipeline.policy.rank_temperatures == TAUS
    assert len(pipeline.predict(tiny_questions(4))[0].passages) == 2
