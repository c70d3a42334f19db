"""Options that had another name: it is still taken, with a note that says the new one."""

import sys
from collections.abc import Mapping
from typing import Any

RENAMED = {
    "evaluate": {
        "model": "model_name_or_path",
        "revision": "model_revision",
        "dataset": "dataset_name",
        "split": "dataset_test_split",
        "limit": "max_eval_samples",
        "batch_size": "per_device_eval_batch_size",
        "k": "cutoffs",
        "metric": "metrics",
        "shuffle_candidates": "shuffle_seed",
    },
    "ask": {"model": "model_name_or_path", "revision": "model_revision"},
    "merge": {"model": "model_name_or_path"},
    "retrieve": {"k": "num_candidates", "run": "output_run"},
    "prepare": {"dataset": "format", "config": "dataset_config", "limit": "max_samples"},
    "compare": {"eval_batch_size": "per_device_eval_batch_size"},
}
"""New names by old ones, per command: a run's sections have those of their commands, a study those of `compare`."""


def say(note: str) -> None:
    """Print a note on standard error."""
    print(f"note: {note}", file=sys.stderr)


def with_new_names(lines: Mapping[str, Any], command: str, source: str) -> dict[str, Any]:
    """Return lines of YAML under their new names, with a note for each that has an old one.

    Args:
        lines: By name.
        command: Whose options they are.
        source: Where they stand, for notes and errors.

    Raises:
        ValueError: If one is there under both names.
    """
    found = dict(lines)
    for old, new in RENAMED.get(command, {}).items():
        if old in found:
            if new in found:
                raise ValueError(f"{source}: {old} is the old name of {new}, and both are set; take {old} out")
            say(f"{source}: {old} is called {new} now")
            found = {new if name == old else name: value for name, value in found.items()}
    return found
