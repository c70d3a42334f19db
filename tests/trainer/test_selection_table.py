"""The printed table: selections grouped, heaviest first, in figures worked out by hand."""

import io

from rich.console import Console

from dro_trl.trainer.monitoring import print_selections
from tests.helpers.tiny_models import tiny_questions


def printed(samples):
    stream = io.StringIO()
    print_selections(samples, 7, Console(file=stream, width=150))
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
    assert [cell.strip() for cell in first.split("│")[2:-1]] == ["[3] > [1]", "1/2", "3", "-1.50", "0.60"]
    assert [cell.strip() for cell in second.split("│")[2:-1]] == ["[2] > [3]", "1/2", "1", "-0.25", "0.40"]


def test_without_gold_passages_there_is_a_dash_and_markup_is_text():
    row = {**tiny_questions(2)[0], "question": "what is [bold]this[/bold] [/]?", "gold_ids": None}
    text = printed([{"row": row, "selections": [[0], [0]], "rewards": [0.0, 0.0], "weights": [0.5, 0.5]}])
    assert "what is [bold]this[/bold] [/]?" in text
    (line,) = (line for line in text.splitlines() if "[1]" in line)
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["[1]", "-", "2", "0.00", "1.00"]
