"""A trained pair for the commands that use one."""

import json

import pytest

from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import make_trainer, save_start


@pytest.fixture(scope="package")
def trained_pair(tmp_path_factory):
    """A folder as `dro-trl train` leaves it, with `rows.jsonl` beside it."""
    folder = tmp_path_factory.mktemp("trained")
    rows = tiny_questions(4, 5, 6, 4, 5)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = make_trainer(folder / "pair", model=save_start(folder / "start"), learning_rate=1e-2, num_candidates=4)
    trainer.train()
    trainer.save_model()
    return folder / "pair"
