"""Operators are counted by what asks for them, and a layer dispatches no more of them than it does today."""

import pytest
from operators_of_a_step import count_step, kind_of, table


def test_kinds():
    names = ("aten::addmm_", "aten::t", "aten::index_select", "aten::mul", "graph_4_cpp_fused_view_0")
    assert [kind_of(name) for name in names] == ["products", "views", "gathers", "elementwise and other", "compiled"]


@pytest.mark.parametrize(
    ("policy", "most"),
    [
        ("pointwise", {"drawing": 0, "selector": 140, "generator": 140, "backward": 370}),
        ("autoregressive", {"drawing": 525, "selector": 250, "generator": 140, "backward": 525}),
    ],
)
def test_a_layer_dispatches_no_more_than_it_does(policy, most):
    """Between models of one layer and of two: what a layer of each costs, apart from what is done once a step.

    A written selection of five passages is four more passes, and one to score them all.
    """
    one, two = (count_step(policy, False, layers, questions_a_step=2, num_selections=3) for layers in (1, 2))
    found = {phase: two[phase].total() - one[phase].total() for phase in two}
    assert all(0 <= found[phase] <= limit for phase, limit in most.items()), found
    assert found["rest"] == 0
    assert one["rest"].total() <= 320, "packing, rewards, measures, clipping and the optimizer"
    assert table(two, policy).row_count == len(two) + 1
