"""How the runs of a study are found together in an experiment tracker."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dro_trl.recipes.studies.plan import Row, Study, slug


def tracking(study: Study, row: Row) -> tuple[dict[str, str], dict[str, str]]:
    """Return the options and the environment variables that name a row in a tracker, and its study as the group.

    What the recipe or the environment says already is kept. They are not part of the row: what is tracked, and where,
    may change while a study goes on.

    Args:
        study: Whose folder is the group's name.
        row: Of the study.

    Returns:
        Options of `dro-trl train`, and variables of its process; none where the recipe names no tracker.
    """
    if row.recipe.get("report_to") in (None, "none", ["none"], []):
        return {}, {}
    group = Path(study.output_dir).resolve().name
    prefix = [row.recipe["run_name"]] if row.recipe.get("run_name") else []
    options = {"run_name": "-".join([*prefix, slug(row.method), f"seed{row.seed}"])}
    if "project" not in row.recipe:
        options["project"] = group
    tags = {"group": group, "method": row.method, "seed": str(row.seed)}
    tags |= json.loads(os.environ.get("MLFLOW_TAGS") or "{}")
    named = {"WANDB_RUN_GROUP": group, "WANDB_JOB_TYPE": row.method, "MLFLOW_EXPERIMENT_NAME": group}
    return options, {**{n: v for n, v in named.items() if n not in os.environ}, "MLFLOW_TAGS": json.dumps(tags)}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started in this context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
