"""The options: defaults that hold together, and errors that can be read aloud."""

import math
import re

import numpy as np
import pytest
from transformers import TrainingArguments

from dro_trl import DROConfig


def config(tmp_path, **kwargs):
    return DROConfig(str(tmp_path), use_cpu=True, **kwargs)


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("num_selected", 0, "at least 1"),
        ("num_candidates", 0, "at least 1"),
        ("num_selections", 0, "at least 1"),
        ("steps_per_estimation", 0, "at least 1"),
        ("num_iterations", -1, "at least 1"),
        ("num_selections_to_print", 0, "at least 1"),
        ("max_passage_tokens", 0, "at least 1 or unset"),
        ("scoring_token_budget", 0, "at least 1 or unset"),
        ("temperature", 0.0, "a number above 0"),
        ("reward_temperature", -1.0, "a number above 0"),
        ("entropy_coef", -0.1, "a number of at least 0"),
        ("kl_coef", -0.1, "a number of at least 0"),
        ("generator_loss_coef", -1.0, "a number of at least 0"),
        ("min_generator_weight", -0.1, "a number of at least 0"),
        ("min_generator_weight", 5, "a number of at least 0 and at most 1"),
        ("generator_learning_rate", -1.0, "a number of at least 0"),
        ("likelihood_reduction", "max", "'sum', 'mean'"),
        ("likelihood_aliases", "all", "'first', 'best', 'marginal'"),
        ("num_selections", 1, "at least 2"),
        ("remove_unused_columns", True, "leave it False"),
        ("use_liger_kernel", True, "leave it False"),
        ("chat_template_kwargs", [1], "`name: value` lines or unset"),
        ("policy_kwargs", "x", "`name: value` lines or unset"),
        ("policy_kwargs", [], "`name: value` lines or unset"),
        ("epsilon_high", math.nan, "a finite number above 0 or unset"),
        ("kl_coef", math.nan, "a finite number of at least 0"),
        ("temperature", math.inf, "a finite number above 0"),
        ("learning_rate", math.nan, "a finite number of at least 0"),
        ("weight_decay", -0.1, "a number of at least 0"),
        ("adam_beta2", 1.0, "a number of at least 0 and below 1"),
        ("reward_weights", [1.0, math.nan], "a list, each a number or unset"),
        ("train_generator", [], "true or false"),
        ("train_generator", "no", "true or false"),
        ("num_selected", True, "a whole number of at least 1"),
        ("num_selected", 2.0, "a whole number of at least 1"),
        ("seed", -1, "a whole number of at least 0 and at most 4294967295"),
        ("per_device_train_batch_size", 0, "a whole number of at least 1"),
        ("policy", 3, "text"),
        ("chat", "maybe", "one of 'auto', 'true', 'false'"),
        ("prompt_texts", {"a": 1}, "`name: value` lines or unset"),
    ],
)
def test_an_error_names_option_value_and_fix(tmp_path, option, value, fix):
    with pytest.raises(ValueError, match=f"^{option}={re.escape(repr(value))} ") as error:
        config(tmp_path, **{option: value})
    assert fix in str(error.value)


def test_numbers_of_numpy_are_numbers(tmp_path):
    args = config(tmp_path, num_selected=np.int64(3), kl_coef=np.float32(0.5), train_generator=np.bool_(True))
    assert (args.num_selected, args.kl_coef) == (3, 0.5)
    with pytest.raises(ValueError, match="^kl_coef=.*nan.* must be a finite number"):
        config(tmp_path, kl_coef=np.float32("nan"))


def test_something_must_be_trained(tmp_path):
    with pytest.raises(ValueError, match="train_selector=False and train_generator=False .* set one to True"):
        config(tmp_path, train_selector=False, train_generator=False)


@pytest.mark.parametrize("other", [{"loss_type": "grpo"}, {"train_generator": False}])
def test_leaving_out_what_weighs_little_needs_weights(tmp_path, other):
    with pytest.raises(
        ValueError, match=r"^min_generator_weight=0.1 with loss_type=.*leaves nothing out.*set it to 0"
    ):
        config(tmp_path, min_generator_weight=0.1, **other)


@pytest.mark.parametrize("loss_type", ["replug", "emdr2", "supervised"])
@pytest.mark.parametrize("name", ["entropy_coef", "kl_coef"])
def test_what_needs_draws_is_refused_with_losses_that_draw_nothing(tmp_path, loss_type, name):
    message = f"^loss_type='{loss_type}' and {name}=0.1 do not go together, .* set {name} to 0"
    with pytest.raises(ValueError, match=message):
        config(tmp_path, loss_type=loss_type, **{name: 0.1})


def test_a_compiled_layer_is_not_recomputed_with_one_of_two_adapters(tmp_path):
    with pytest.raises(ValueError, match=r"^torch_compile=True, shared_base=True and activation_checkpointing=True "):
        config(tmp_path, torch_compile=True, shared_base=True, activation_checkpointing=True)


def test_one_selection_is_enough_for_the_generator_alone(tmp_path):
    assert config(tmp_path, num_selections=1, train_selector=False).num_selections == 1


@pytest.mark.parametrize(
    ("steps", "iterations", "expected"), [(1, 1, True), (2, 1, False), (1, 2, False), (3, 4, False)]
)
def test_on_policy_is_one_use_by_the_model_that_drew(tmp_path, steps, iterations, expected):
    assert config(tmp_path, steps_per_estimation=steps, num_iterations=iterations).on_policy is expected


def test_keyword_arguments_may_be_json_as_on_a_command_line(tmp_path):
    args = config(tmp_path, policy_kwargs='{"retriever_prior": 0.5}', model_init_kwargs='{"dtype": "bfloat16"}')
    assert args.policy_kwargs == {"retriever_prior": 0.5}
    assert args.model_init_kwargs == {"dtype": "bfloat16"}


def test_every_option_of_ours_has_a_help_text():
    own = set(DROConfig.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    assert "num_selected" in own
    missing = [name for name in own if not DROConfig.__dataclass_fields__[name].metadata.get("help")]
    assert missing == []
