"""A tiny pair trained with each baseline that draws nothing: what is read, and which weights get a gradient."""

import math

import pytest
import torch
from datasets import Dataset

from dro_trl import RAGPipeline
from dro_trl.losses.options import selections_read
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import gradients, logged, make_trainer

EVERY = {"num_selected": 2, "num_selections": 6, "policy_kwargs": {"proposal": "every_passage"}}


def models_with_gradient(trainer) -> set[str]:
    """The models that a step moves; its loss must be a number."""
    loss, grads = gradients(trainer, {"rows": trainer.train_dataset.to_list()[:2], "draw": 0})
    assert math.isfinite(loss)
    return {name.partition(".")[0] for name, gradient in grads.items() if gradient.abs().max() > 0}


@pytest.mark.parametrize("loss_type", ["dro", "replug", "emdr2"])
@pytest.mark.parametrize("trained", [("selector", "generator"), ("selector",)])
def test_single_passages_train_the_models_that_are_trained(tmp_path, loss_type, trained):
    trainer = make_trainer(tmp_path, loss_type=loss_type, train_generator="generator" in trained, **EVERY)
    assert models_with_gradient(trainer) == set(trained)
    batch = {"rows": trainer.train_dataset.to_list()[:2], "draw": 0}
    assert trainer.estimate(trainer.model, batch)["selections"].shape == (2, 6, 1)


@pytest.mark.parametrize(("loss_type", "expected"), [("dro", 6), ("replug", 6), ("emdr2", 7), ("supervised", 1)])
def test_what_the_generator_reads_is_counted(tmp_path, monkeypatch, loss_type, expected):
    """What a study reports is what the scorer is asked for, of a question of a step."""
    given = EVERY if loss_type != "supervised" else {"num_selected": 2, "num_selections": 6}
    trainer = make_trainer(tmp_path, loss_type=loss_type, **given)
    score, read = trainer.model.scorer.logps, []

    def counted(generator, rows, selections, *args, **kwargs):
        read.append(selections.shape[1])
        return score(generator, rows, selections, *args, **kwargs)

    monkeypatch.setattr(trainer.model.scorer, "logps", counted)
    gradients(trainer, {"rows": trainer.train_dataset.to_list()[:2], "draw": 0})
    assert sum(read) == selections_read(loss_type, 6, train_generator=True) == expected


def test_rag_sequence_trains_on_each_passage_and_selects_several(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=Dataset.from_list(tiny_questions(4, 6)), **EVERY)
    trainer.train()
    assert logged(trainer, "frac_unique_selections")
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    trainer.save_model()
    pipeline = RAGPipeline.from_pretrained(tmp_path, device="cpu")
    assert all(len(set(selection)) == 2 for selection, _ in pipeline.select(tiny_questions(4, 6)))


def test_replug_off_policy_is_the_same_divergence(tmp_path):
    """Samples that are used twice are still all passages: the second loss is that of the moved selector, exactly."""
    trainer = make_trainer(tmp_path, loss_type="replug", num_iterations=2, train_generator=False, **EVERY)
    rows = trainer.train_dataset.to_list()[:2]
    kept = trainer.estimate(trainer.model, {"rows": rows, "draw": 0})
    with torch.no_grad():
        for parameter in trainer.model.selector.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    again = gradients(trainer, {"rows": rows, "draw": 0, **kept})[0]
    afresh = gradients(trainer, {"rows": rows, "draw": 0})[0]
    assert again == pytest.approx(afresh, rel=1e-5)


def test_emdr2_reads_the_likeliest_passages_together(tmp_path):
    """The generator's gradient is that of the answer given the policy's best K alone, whatever single ones say."""
    trainer = make_trainer(tmp_path, loss_type="emdr2", **EVERY)
    pair, rows = trainer.model, trainer.train_dataset.to_list()[:2]
    best, _ = pair.policy.best(pair.selector, pair.policy.encode(rows))
    logps, _ = pair.scorer.logps(pair.generator, rows, best[:, None])
    expected = torch.autograd.grad(-logps.sum((1, 2, 3)).mean(), list(pair.generator.parameters()))
    read: list[torch.Tensor] = []
    of_scorer = pair.scorer.logps
    pair.scorer.logps = lambda model, rows, selections: read.append(selections) or of_scorer(model, rows, selections)
    _, grads = gradients(trainer, {"rows": rows, "draw": 0})
    assert [tuple(selections.shape) for selections in read] == [(2, 6, 1), (2, 1, 2)]
    assert torch.equal(read[1][:, 0], best)
    for (name, _), gradient in zip(pair.generator.named_parameters(), expected, strict=True):
        torch.testing.assert_close(grads[f"generator.{name}"], gradient, atol=1e-5, rtol=1e-4)


def test_emdr2_trains_off_policy_and_evaluates(tmp_path):
    eval_dataset = Dataset.from_list(tiny_questions(4, 6))
    trainer = make_trainer(tmp_path, loss_type="emdr2", num_iterations=2, eval_dataset=eval_dataset, **EVERY)
    trainer.train()
    assert all(map(math.isfinite, logged(trainer, "loss")))
    assert math.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("policy", ["dro_trl.PlackettLucePolicy", "dro_trl.AutoregressivePolicy"])
@pytest.mark.parametrize("trained", [("selector", "generator"), ("selector",), ("generator",)])
def test_supervision_takes_the_gold_passages(tmp_path, policy, trained):
    """Golds first, filled up with the best others; a question with two golds beside one with one, and with three."""
    questions = tiny_questions(4, 5, 6)
    questions[1]["gold_ids"], questions[2]["gold_ids"] = ["1-3", "1-0"], ["2-5", "2-1", "2-4", "9-9"]
    options = {f"train_{role}": role in trained for role in ("selector", "generator")}
    rows = Dataset.from_list(questions)
    trainer = make_trainer(tmp_path, loss_type="supervised", policy=policy, train_dataset=rows, **options)
    assert models_with_gradient(trainer) == set(trained)
    held = trainer.train_dataset.to_list()
    selections = trainer.estimate(trainer.model, {"rows": held, "draw": 0})["selections"]
    ids = [[row["candidates"][i]["id"] for i in z[0]] for row, z in zip(held, selections.tolist(), strict=True)]
    best = trainer.model.policy.best(trainer.model.selector, trainer.model.policy.encode(held[:1]))[0][0].tolist()
    other = next(id for id in (held[0]["candidates"][i]["id"] for i in best) if id != "0-0")
    assert ids == [["0-0", other], ["1-0", "1-3"], ["2-1", "2-4"]]  # Of three, those that the retriever ranks first.
    trainer.train()
    assert all(map(math.isfinite, logged(trainer, "loss")))


def test_supervision_learns_to_select_the_gold_passages(tmp_path):
    trainer = make_trainer(
        tmp_path, loss_type="supervised", max_steps=30, learning_rate=3e-3, num_selected=1, num_iterations=2
    )
    trainer.train()
    losses = logged(trainer, "loss")
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    rows = trainer.train_dataset.to_list()
    best, _ = trainer.model.policy.best(trainer.model.selector, trainer.model.policy.encode(rows))
    found = [row["candidates"][i]["id"] in row["gold_ids"] for row, (i,) in zip(rows, best.tolist(), strict=True)]
    assert sum(found) >= 5


def test_supervision_refuses_what_it_cannot_learn_from(tmp_path):
    questions = tiny_questions(4, 6, 6, 6)
    questions[1]["gold_ids"], questions[3]["gold_ids"] = ["elsewhere"], None
    rows = Dataset.from_list(questions)
    message = r"^train_dataset, row 2: no candidate is a gold passage .*\(2 of 4 rows\); retrieve more"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, loss_type="supervised", train_dataset=rows)
    with pytest.raises(ValueError, match=r"^eval_dataset, row 2: no candidate is a gold passage"):
        make_trainer(tmp_path, loss_type="supervised", eval_dataset=rows)
    questions[1]["gold_ids"] = [f"1-{i}" for i in range(6)]
    message = "^train_dataset, row 1: 6 gold passages, of which .* 720 orders; lower num_selected=6 to 5"
    with pytest.raises(ValueError, match=message):
        make_trainer(
            tmp_path, loss_type="supervised", train_dataset=Dataset.from_list(questions[1:2] * 2), num_selected=6
        )


@pytest.mark.parametrize("loss_type", ["replug", "emdr2"])
def test_a_sum_over_passages_needs_every_passage(tmp_path, loss_type):
    message = f"loss_type='{loss_type}' and proposal='policy' do not go together.*set proposal='every_passage'"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, loss_type=loss_type)
