"""The baselines from reinforcement learning against exact gradients of the expected reward, and against TRL's own.

As in `test_losses`, all ordered pairs of four candidates with fixed item scores: expectations over M = 2, 3 draws go
through every tuple of draws, so that they are exact.
"""

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from dro_trl import DROConfig
from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.baselines import (
    clipped_loss,
    group_advantages,
    kl_k3_loss,
    leave_one_out_advantages,
    one_step_advantages,
    reinforce_loss,
    value_loss,
)
from dro_trl.losses.loss_types import selection_weights, selector_loss
from tests.helpers.tiny_models import tiny_tokenizer
from tests.helpers.training import logged, make_trainer, save_start
from tests.losses.test_terms import (
    ANSWER_LOGPS,
    PROPOSAL,
    REFERENCE,
    SCORES,
    exact_gradient,
    expected_gradient,
    pair_logps,
)

EXACT = exact_gradient(lambda logps: (logps.exp() * ANSWER_LOGPS).sum(-1))
"""Of the expected reward."""


def objective(loss_type: str, values: Tensor | None = None, **options):
    """A loss of drawn pairs as `test_losses.row_gradients` takes it."""
    args = DROConfig("unused", loss_type=loss_type, bf16=False, report_to="none", **options)

    def loss_of(logps: Tensor, drawn: Tensor, ratios: Tensor) -> Tensor:
        old = None if values is None else values.expand(len(drawn))
        scored = ScoredSelections(logps, ratios, ANSWER_LOGPS[drawn], values=old, old_values=old)
        return selector_loss(scored, selection_weights(scored, args), args)

    return loss_of


@pytest.mark.parametrize("num", [2, 3])
def test_on_policy_gradients_are_those_of_the_expected_reward(num):
    """RLOO, REINFORCE and PPO without bias, whatever the value; a group's own mean, as in GRPO, costs 1/M of it."""
    for loss_of in (
        objective("rloo"),
        objective("reinforce"),
        objective("ppo", values=torch.tensor(-2.0).double()),
        objective("ppo", values=torch.tensor(5.0).double()),
    ):
        torch.testing.assert_close(expected_gradient(loss_of, num), EXACT)
    found = expected_gradient(objective("grpo", scale_rewards="none"), num)
    torch.testing.assert_close(found, (num - 1) / num * EXACT)


def test_off_policy_reinforce_corrects_for_the_proposal():
    torch.testing.assert_close(expected_gradient(objective("reinforce"), 2, PROPOSAL), EXACT)


@pytest.mark.parametrize("loss_type", ["rloo", "reinforce"])
def test_a_proposal_that_is_not_clipped_gives_the_corrected_gradient(loss_type):
    """With clipping out of reach the ratio corrects REINFORCE exactly; RLOO's baseline then has a bias of its own."""
    clipped = expected_gradient(objective(loss_type, epsilon=0.01), 2, PROPOSAL)
    free = expected_gradient(objective(loss_type, epsilon=100.0), 2, PROPOSAL)
    assert (clipped - free).norm() == 0 if loss_type == "reinforce" else (clipped - free).norm() > 0.01


def test_advantages_worked_by_hand():
    """Rewards 1, 2, 6: mean 3, deviations -2, -1, 3, sample variance 14/2; the others' means are 4, 3.5, 1.5."""
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    assert group_advantages(rewards, scale=False).tolist() == [[-2, -1, 3]]
    found = group_advantages(rewards)
    torch.testing.assert_close(found, torch.tensor([[-2.0, -1.0, 3.0]]) / (7**0.5 + 1e-4))
    torch.testing.assert_close(leave_one_out_advantages(rewards), torch.tensor([[-3.0, -1.5, 4.5]]))
    assert one_step_advantages(rewards, torch.tensor([2.0])).tolist() == [[-1, 0, 4]]


def test_clipping_worked_by_hand():
    """Ratios 2 and 1/2, epsilon 0.2: of min(2, 1.2) and min(-2, -1.2), and of min(.5, .8) and min(-.5, -.8)."""
    ratios = torch.tensor([[2.0, 2.0, 0.5, 0.5]]).log()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    logps = torch.zeros(1, 4, requires_grad=True)
    loss = clipped_loss(logps, ratios, advantages, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 2 + 0.5 - 0.8) / 4)
    loss.backward()  # The clipped ones, the first and the last, give no gradient.
    torch.testing.assert_close(logps.grad, torch.tensor([[0.0, 2.0, -0.5, 0.0]]) / 4)
    wider = clipped_loss(logps, ratios, advantages, 0.2, epsilon_high=0.5)
    assert wider.item() == pytest.approx(-(1.5 - 2 + 0.5 - 0.8) / 4)


def test_reinforce_and_k3_worked_by_hand():
    """-mean(1 * 3 * -1, 2 * 1 * -2) = 3.5; twice k3 of a difference of log 2: 2 (2 - log 2 - 1)."""
    logps, ratios = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 2.0]]).log()
    assert reinforce_loss(logps, ratios, torch.tensor([[3.0, 1.0]])).item() == pytest.approx(3.5)
    log_2 = torch.tensor(2.0).log()
    found = kl_k3_loss(logps, logps + log_2, log_2.expand(1, 2))
    assert found.item() == pytest.approx(2 * (1 - log_2.item()))


@pytest.mark.parametrize("proposal", [SCORES, PROPOSAL], ids=["on-policy", "off-policy"])
def test_k3_has_the_gradient_of_the_divergence(proposal):
    divergence = exact_gradient(lambda logps: (logps.exp() * (logps - pair_logps(REFERENCE))).sum())

    def loss_of(logps: Tensor, drawn: Tensor, ratios: Tensor) -> Tensor:
        return kl_k3_loss(logps, pair_logps(REFERENCE)[drawn], ratios)

    torch.testing.assert_close(expected_gradient(loss_of, 2, proposal), -divergence)


def test_value_loss_worked_by_hand():
    """V = 1 moved from 0, c = 0.2: to a return of 3 max(4, 2.8^2), to one of 0 max(1, 0.2^2); half the mean of both.

    The clipped branch has no gradient, so that a value does not move further than c from its old one.
    """
    values = torch.tensor([1.0], requires_grad=True)
    loss = value_loss(values, torch.zeros(1), torch.tensor([[3.0, 0.0]]), 0.2)
    assert loss.item() == pytest.approx((2.8**2 + 1) / 4)
    loss.backward()
    assert values.grad.item() == pytest.approx(0.5)


def test_kl_is_a_part_of_the_reward_of_rloo_and_ppo():
    """Rewards 0, log q - log p_ref of 1 and 3, coefficient 1/2: rewards -1/2 and -3/2, advantages 1 and -1."""
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    scored = ScoredSelections(logps, torch.zeros(1, 2), torch.zeros(1, 2), ref_logps=torch.tensor([[-2.0, -5.0]]))
    args = DROConfig("unused", loss_type="rloo", kl_coef=0.5, bf16=False, report_to="none")
    selector_loss(scored, selection_weights(scored, args), args).backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[-0.5, 0.5]]))


def test_the_generator_weighs_all_alike_unless_the_posterior_is_trained():
    scored = ScoredSelections(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    for loss_type, expected in (("grpo", [0.5, 0.5]), ("dro", torch.tensor([0.0, 1.0]).softmax(-1).tolist())):
        args = DROConfig("unused", loss_type=loss_type, bf16=False, report_to="none")
        assert selection_weights(scored, args)[0].tolist() == pytest.approx(expected)


def letters_reward(completion_ids, **kwargs):
    return [float(sum(ids) % 7) - 3 * float(ids[0] % 3 == 0) for ids in completion_ids]


def trl_trainer(kind: str, folder, length: int, **options):
    config, trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[kind]
    args = config(
        str(folder),
        num_generations=4,
        max_completion_length=length,
        per_device_train_batch_size=8,
        report_to="none",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        model_init_kwargs={"dtype": torch.float32},
        **options,
    )
    data = Dataset.from_dict({"prompt": [f"Who founded club {number}?" for number in range(8)]})
    start = save_start(folder / "start")  # TRL loads the reference from the model's folder.
    return trainer(start, letters_reward, args=args, train_dataset=data, processing_class=tiny_tokenizer())


def token_logps(model, inputs) -> Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1].log_softmax(-1)
    return logits.gather(-1, inputs["completion_ids"][..., None])[..., 0] * inputs["completion_mask"]


@pytest.mark.parametrize("moved", [0.0, 0.3], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize(
    ("kind", "length", "theirs", "ours"),
    [
        ("grpo", 1, {}, {}),
        ("grpo", 1, {"scale_rewards": "none", "loss_type": "dr_grpo"}, {"scale_rewards": "none"}),
        ("grpo", 1, {"epsilon": 0.1, "epsilon_high": 0.4}, {"epsilon": 0.1, "epsilon_high": 0.4}),
        ("grpo", 1, {"beta": 0.3}, {"kl_coef": 0.3}),
        ("rloo", 3, {"beta": 0.0}, {}),
        ("rloo", 3, {"beta": 0.2}, {"kl_coef": 0.2}),
    ],
)
def test_losses_and_gradients_are_those_of_trl(tmp_path, kind, length, theirs, ours, moved):
    """A selection is one action, as is GRPO's completion of one token, and RLOO's of any length."""
    trainer = trl_trainer(kind, tmp_path, length, **theirs)
    model = trainer.model.train()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    group = inputs["prompt_ids"].unique(dim=0, return_inverse=True)[1]  # TRL shuffles the completions of a step.
    order = group.argsort(stable=True)
    inputs = {k: v[order] if isinstance(v, Tensor) and v.ndim else v for k, v in inputs.items()}
    old = token_logps(model, inputs).detach()
    inputs.setdefault("old_per_token_logps", old)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(moved * torch.randn_like(parameter) * parameter.std())
    rewards = torch.tensor(letters_reward([ids.tolist() for ids in inputs["completion_ids"]])).view(2, 4)
    if kind == "grpo":
        found = group_advantages(rewards, scale="scale_rewards" not in theirs)
        torch.testing.assert_close(found.flatten(), inputs["advantages"])

    def gradients(loss: Tensor) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        loss.backward()
        return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    trainer.current_gradient_accumulation_steps = 1
    expected, their_gradients = gradients(trainer._compute_loss(model, inputs))
    logps = token_logps(model, inputs).sum(-1).view(2, 4)
    old_logps = old.sum(-1).view(2, 4)
    args = DROConfig("unused", loss_type=kind, bf16=False, report_to="none", **ours)
    scored = ScoredSelections(
        logps,
        (logps - old_logps).detach(),
        rewards,
        ref_logps=old_logps if args.kl_coef else None,  # The reference is the model as it was.
    )
    found, our_gradients = gradients(selector_loss(scored, selection_weights(scored, args), args))
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(gradient.abs().max() for gradient in their_gradients) > 1e-3
    for ours_, theirs_ in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss_type", ["dro", "grpo", "rloo", "reinforce", "ppo"])
def test_the_trainer_raises_the_reward_with_every_objective(tmp_path, loss_type):
    """A reward of 1 for taking the first candidate first: drawn more and more often."""
    trainer = make_trainer(
        tmp_path,
        loss_type=loss_type,
        reward_funcs=lambda selections, **kwargs: [4.0 * (selection[0] == 0) for selection in selections],
        train_generator=False,
        shuffle_candidates=False,
        learning_rate=3e-3,
        num_selections=8,
        max_steps=30,
        policy="dro_trl.AutoregressivePolicy",
    )
    trainer.train()
    rewards = logged(trainer, "reward")
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 5
