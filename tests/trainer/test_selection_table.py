"""The printed table: selections grouped, heaviest first, in figures worked out by hand."""

import io

from rich.console import Console

from dro_trl.trainer.selection_table import print_selections
from tests.helpers.tiny_models import tiny_questions


def printed(samples, width=150):
    stream = io.StringIO()
    print_selections(samples, 7, Console(file=stream, width=width))
    return stream.getvalue()


def test_equal_selections_are_one_line_with_their_count_and_summed_weight():
    """Three draws of [2, 0] weigh 0.1 + 0.2 + 0.3 = 0.6, which puts them above the one draw of [1, 2] at 0.4."""
    row = {**tiny_questions(3, 3)[0], "gold_ids": ["0-0", "0-1"]}
    text = printed(
        [
            {
                "row": row,
                "selections": [[2, 0], [1, 2], [2, 0], [2, 0]],
                "rewards": [-1.5, -0.25, -1.5, -1.5],
                "weights": [0.1, 0.4, 0.2, 0.3],
            }
        ]
    )
    assert "Sampled selections at step 7" in text
    assert row["question"] in text
    first, second = (line for line in text.splitlines() if "] > [" in line)
    assert first.rsplit(maxsplit=4) == ["    [3] > [1]", "1/2", "3", "-1.50", "0.60"]
    assert second.rsplit(maxsplit=4) == ["    [2] > [3]", "1/2", "1", "-0.25", "0.40"]


def test_without_gold_passages_there_is_a_dash_and_markup_is_text():
    row = {**tiny_questions(2)[0], "question": "what is [bold]this[/bold] [/]?", "gold_ids": None}
    text = printed([{"row": row, "selections": [[0], [0]], "rewards": [0.0, 0.0], "weights": [0.5, 0.5]}])
    assert "what is [bold]this[/bold] [/]?" in text
    (line,) = (line for line in text.splitlines() if "[1]" in line)
    assert line.rsplit(maxsplit=4) == ["    [1]", "–", "2", "0.00", "1.00"]


def test_at_80_columns_each_selection_stands_beside_its_own_reward():
    """However long the question is, and however many passages are selected."""
    row = {**tiny_questions(20)[0], "question": "Who founded it, " * 12 + "and when?"}
    selections = [[*range(m, m + 5)] for m in range(10, 14)]
    rewards = [-1.0, -2.0, -3.0, -4.0]
    text = printed([{"row": row, "selections": selections, "rewards": rewards, "weights": [0.4, 0.3, 0.2, 0.1]}], 80)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line for line in text.splitlines() if "] > [" in line]
    assert [line.split()[0] for line in lines] == ["[11]", "[12]", "[13]", "[14]"]
    assert [line.split()[-2] for line in lines] == ["-1.00", "-2.00", "-3.00", "-4.00"]
    assert len({line.index(line.split()[-2]) for line in lines}) == 1
