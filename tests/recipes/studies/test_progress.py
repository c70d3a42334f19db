"""Progress of a row, read from its log: a line on a terminal, lines of tenths elsewhere."""

import io
import time

import pytest
from rich.console import Console

from dro_trl.recipes.studies import progress
from dro_trl.recipes.studies.progress import Stand, last_stand, showing_progress
from dro_trl.trainer.log_table import Rows

BAR = "\r{}: {}%|████      | {}/{} [00:01<00:01, 1.2it/s]"


def row_of_table(step, steps):
    """What training writes of a step where it has no bar."""

    class State:
        global_step, max_steps = step, steps

    return "\n".join(Rows().lines({"loss": 0.5, "reward": -3.0, "ess": 2.0}, State())) + "\n"


@pytest.mark.parametrize(
    ("text", "stand"),
    [
        ("", None),
        ("Training on the CPU in float32\nrecall 3/4 of\n", None),
        (
            "\r  0%|      | 0/60 [00:00<?, ?it/s]\r 20%|██    | 12/60 [00:30<02:00, 2.50s/it]",
            Stand("", 12, 60),
        ),
        ("head\n" + row_of_table(12, 1_060), Stand("", 12, 1060)),
        (BAR.format("start, retriever order: b", 25, 2, 8), Stand("start, retriever order: b", 2, 8)),
        (
            BAR.format("a: b", 100, 8, 8) + BAR.format("trained: answers", 0, 0, 8),
            Stand("trained: answers", 0, 8),
        ),
        ("half a bar\r 40%|████", None),
    ],
)
def test_the_last_that_a_log_says(text, stand):
    assert last_stand(text) == stand


def shown(log, monkeypatch, **console):
    """What is shown while a process writes its log, after what an earlier one wrote."""
    monkeypatch.setattr(progress, "PAUSE", 0.01)
    log.write_text(BAR.format("", 100, 60, 60))
    to = io.StringIO()
    with (
        showing_progress(log, "evaluation", Console(file=to, width=80, highlight=False, **console)),
        log.open("a") as file,
    ):
        for done in range(0, 41, 2):
            file.write(BAR.format("trained, retriever order: selections", done, done, 40))
            file.flush()
            time.sleep(0.03)
    return to.getvalue()


def test_lines_of_tenths_where_there_is_no_terminal(tmp_path, monkeypatch):
    lines = shown(tmp_path / "train.log", monkeypatch).splitlines()
    assert all(line.startswith("  evaluation: trained, retriever order: selections: ") for line in lines)
    assert 5 <= len(lines) <= 10  # A machine may miss some.
    assert lines[-1].endswith(" of 40")
    assert len(set(lines)) == len(lines)


def test_a_line_of_at_most_80_columns_on_a_terminal(tmp_path, monkeypatch):
    written = shown(tmp_path / "train.log", monkeypatch, force_terminal=True, color_system=None, legacy_windows=False)
    assert "evaluation: trained, retriever order: sel" in written
    assert "/40" in written
    assert "60/60" not in written
    assert max(map(len, written.replace("\x1b", "\r").split("\r"))) <= 84  # With what clears the line.
    assert written.count("\n") <= 1  # The last, which is taken back.
