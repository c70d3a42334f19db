"""The profile of a step: every operator's own time once."""

import step_profile

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_the_operators_of_one_step():
    operators = step_profile.profile_step("pointwise", 6, 10, SIZES)
    calls = {row["operator"]: row["calls"] for row in operators}
    # A forward pass of each model, two layers each; the selector attends for its prompt, then for its passages, which
    # are multiplied out.
    assert calls["aten::_scaled_dot_product_flash_attention_for_cpu"] == 2 * 2
    assert calls["aten::_scaled_dot_product_flash_attention_for_cpu_backward"] == 2 * 2
    assert calls["aten::baddbmm"] == 2
    assert calls["aten::embedding"] == 2
    assert abs(sum(row["share"] for row in operators) - 1) < 1e-6
    assert [row["ms"] for row in operators] == sorted((row["ms"] for row in operators), reverse=True)
    assert step_profile.table(operators[:3], "pointwise").row_count == 3


def test_more_questions_are_larger_operators_and_not_many_more():
    one, four = (
        {row["operator"]: row["calls"] for row in step_profile.profile_step("pointwise", 6, 10, SIZES, batch_size)}
        for batch_size in (1, 4)
    )
    for operator in ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::embedding", "aten::addmm"):
        assert one[operator] <= four[operator] <= 2 * one[operator]
