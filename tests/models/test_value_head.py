"""PPO's value head: what it reads, what it learns, and that its error leaves the selector alone."""

import pytest
import torch
from safetensors.torch import load_file

from dro_trl.models.saving import VALUE_HEAD_NAME
from dro_trl.models.value_head import ValueHead
from tests.helpers.training import LORA, changed, gradients, logged, make_trainer, weights_of

POLICIES = ["dro_trl.PlackettLucePolicy", "dro_trl.AutoregressivePolicy", "dro_trl.ConditionalScoresPolicy"]


def test_pooling_worked_by_hand():
    """Row 0 has states 1 and 3, row 1 has 10: their means are 2 and 10, their firsts 1 and 10; V = 2 s + 1."""
    noted = {
        "positions": torch.tensor([[True, False, True], [False, True, False]]),
        "states": torch.tensor([[1.0], [3.0], [10.0]]),
    }
    for pooling, expected in (("mean", [5, 21]), ("first", [3, 21])):
        head = ValueHead(1, pooling)
        assert head(noted).tolist() == [0, 0]
        with torch.no_grad():
            head.linear.weight.fill_(2)
            head.linear.bias.fill_(1)
        assert head(noted).tolist() == expected


def test_rows_of_one_question_are_pooled_together():
    """Rows 0 and 1, of states 1, 3 and 10, are of one question: mean 14 / 3, first 1. Row 2, of 4, is another's."""
    noted = {
        "positions": torch.tensor([[True, False, True], [False, True, False], [True, False, False]]),
        "states": torch.tensor([[1.0], [3.0], [10.0], [4.0]]),
    }
    for pooling, expected in (("mean", [14 / 3, 4]), ("first", [1, 4])):
        head = ValueHead(1, pooling)
        torch.nn.init.ones_(head.linear.weight)
        assert head(noted, torch.tensor([0, 0, 1])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("policy", [*POLICIES, "query_likelihood"])
def test_a_value_depends_on_the_question_alone(tmp_path, policy):
    """Also where each passage is read in a row of its own, of which questions have different numbers."""
    chosen = {"policy": policy}
    if policy == "query_likelihood":
        chosen = {"policy_kwargs": {"item_score": "query_likelihood", "score_temperature": 4.0}}
    trainer = make_trainer(tmp_path, loss_type="ppo", **chosen)
    torch.nn.init.normal_(trainer.model.value_head.linear.weight)
    rows = [trainer.train_dataset[0], trainer.train_dataset[1]]
    both = [trainer._forward(trainer.model, {"rows": rows, "draw": draw}) for draw in (0, 1)]
    assert not torch.equal(both[0].selections, both[1].selections)
    torch.testing.assert_close(both[0].state_values, both[1].state_values)
    assert both[0].state_values[0] != both[0].state_values[1]
    alone = trainer._forward(trainer.model, {"rows": rows[1:], "draw": 0})
    torch.testing.assert_close(alone.state_values[0], both[0].state_values[1])


def test_the_error_of_the_value_does_not_move_the_selector(tmp_path):
    found = []
    for vf_coef in (0.0, 1.0):
        trainer = make_trainer(tmp_path, loss_type="ppo", vf_coef=vf_coef)
        found.append(gradients(trainer, {"rows": [trainer.train_dataset[0]], "draw": 0})[1])
    heads = {name for name in found[0] if name.startswith("value_head")}
    assert len(heads) == 2
    for name, gradient in found[1].items():
        assert torch.equal(gradient, found[0][name]) is (name not in heads), name


@pytest.mark.parametrize("shared", [False, True])
def test_the_value_learns_the_mean_reward(tmp_path, shared):
    options = {"peft_config": LORA, "shared_base": True} if shared else {}
    trainer = make_trainer(
        tmp_path,
        loss_type="ppo",
        reward_funcs=lambda prompts, **kwargs: [3.0] * len(prompts),
        cliprange_value=10.0,
        learning_rate=3e-2,
        lr_scheduler_type="linear",
        max_steps=60,
        train_generator=False,
        weight_decay=0.0,
        **options,
    )
    before = weights_of(trainer)
    trainer.train()
    assert "value_head.linear.weight" in changed(before, weights_of(trainer))
    values = logged(trainer, "value")
    assert values[0] == 0
    assert sum(values[-20:]) / 20 == pytest.approx(3, abs=0.3)
    trainer.save_model()
    saved = load_file(tmp_path / VALUE_HEAD_NAME)
    assert torch.equal(saved["linear.weight"], trainer.model.value_head.linear.weight)


def test_no_head_where_nothing_needs_one(tmp_path):
    assert make_trainer(tmp_path, loss_type="grpo").model.value_head is None
    assert make_trainer(tmp_path, loss_type="ppo", train_selector=False).model.value_head is None
