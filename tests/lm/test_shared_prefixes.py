"""Which prompts share a row, and what a row then holds."""

import itertools
import random

import pytest

from dro_trl.lm.answer_passes import answer_rows, group_by_prefix


def cost(group: list[int], prompts: list[list[int]], token_cost: float) -> float:
    """Of one group, by counting the nodes of its row: a beginning in common, then every rest with one answer token."""
    columns = zip(*(prompts[i] for i in group), strict=False)
    shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    if len(group) == 1:
        return (shared + 1) * token_cost + (shared + 1) ** 2 / 2
    rests = [len(prompts[i]) - shared + 1 for i in group]
    return (shared + sum(rests)) * token_cost + shared**2 / 2 + sum(rest * (shared + rest) for rest in rests)


def test_groups_worked_by_hand():
    """Prompts of 10 tokens, answers of one: 0 and 2 share nine tokens, 1 shares none, 3 shares two with 0 and 2.

    At 100 pairs a token: alone 11 x 100 + 60.5 = 1,160.5; 0 and 2 in 13 tokens, 40.5 pairs for nine tokens and 2 x 11
    for each rest of two, 1,384.5, less than 2,321; with 3 in a row of 29 tokens 3,199, more than 1,384.5 + 1,160.5.
    0 and 3 alone: 20 tokens and 200 pairs, less than twice 1,160.5, and at 20 pairs a token 600, more than 561.
    """
    first = list(range(10))
    prompts = [first, list(range(20, 30)), [*first[:9], 99], [0, 1, *range(30, 38)]]
    answers = [[7]] * 4
    for token_cost in (100, 20, 1):
        assert sorted(map(sorted, group_by_prefix(prompts, answers, token_cost))) == [[0, 2], [1], [3]]
    two = [first, prompts[3]]
    assert sorted(group_by_prefix(two, answers[:2], 100)[0]) == [0, 1]
    assert sorted(group_by_prefix(two, answers[:2], 20)) == [[0], [1]]
    # Under a mask, 0 and 2 have 13 x 13 pairs: 182 at one pair a token, and 143 apart.
    assert sorted(group_by_prefix(prompts, answers, 1, masked=True)) == [[0], [1], [2], [3]]
    assert sorted(group_by_prefix(prompts, answers, 100, longest=12)) == [[0], [1], [2], [3]]
    assert sorted(map(sorted, group_by_prefix(prompts, answers, 100, longest=13))) == [[0, 2], [1], [3]]


@pytest.mark.parametrize("token_cost", [5, 50, 500])
def test_groups_are_the_cheapest_runs(token_cost):
    """Against every division of the sorted prompts into runs, of six prompts of one to four passages each."""
    draw = random.Random(token_cost)
    for _ in range(20):
        passages = [[draw.randrange(10**6) for _ in range(6)] for _ in range(4)]
        order = [draw.sample(range(4), draw.randint(1, 4)) for _ in range(6)]
        prompts = [[1, *(token for i in chosen for token in passages[i])] for chosen in order]
        found = group_by_prefix(prompts, [[7]] * 6, token_cost)
        assert sorted(itertools.chain(*found)) == list(range(6))
        by_text = sorted(range(6), key=lambda i: prompts[i])
        least = min(
            sum(cost(by_text[a:b], prompts, token_cost) for a, b in itertools.pairwise([0, *cuts, 6]))
            for size in range(6)
            for cuts in itertools.combinations(range(1, 6), size)
        )
        assert sum(cost(group, prompts, token_cost) for group in found) == pytest.approx(least)


def test_row_worked_by_hand():
    """Prompts 1 2 3 and 1 2 4 5 with answers 8 and 9 9: 1 2, then 3 8, then 4 5 9 9; the answers alone are scored."""
    (row,) = answer_rows([[1, 2, 3], [1, 2, 4, 5]], [[[8]], [[9, 9]]], token_cost=10**6)
    assert (row.prompt, row.rests, row.answers) == ([1, 2], [[3, 8], [4, 5, 9, 9]], [(0, 0), (1, 0)])
    assert row.scored == [[False, True], [False, False, True, True]]
    assert row.length == 8


def test_a_prompt_that_another_begins_with():
    (row,) = answer_rows([[1, 2, 3, 4], [1, 2, 3]], [[[8]], [[9]]], token_cost=10**6)
    assert (row.prompt, row.rests, row.answers) == ([1, 2, 3], [[9], [4, 8]], [(1, 0), (0, 0)])


def test_several_answers_share_their_prompt_alone():
    rows = answer_rows([[1, 2], [1, 3]], [[[8], [9]], [[8]]], token_cost=10**6)
    assert [(row.prompt, row.rests) for row in rows] == [([1, 2], [[8], [9]]), ([1, 3], [[8]])]
    assert [row.answers for row in rows] == [[(0, 0), (0, 1)], [(1, 0)]]
