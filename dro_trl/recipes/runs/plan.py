"""A run's recipe: one section a stage, whose keys are the options of the command of that name."""

import importlib.util
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from dro_trl.names import refuse_unknown
from dro_trl.options.renamed import with_new_names
from dro_trl.options.values import check_values
from dro_trl.recipes.file import find_recipe, names_code, read_recipe
from dro_trl.recipes.options import KINDS
from dro_trl.recipes.runs.stage import Stage

SECTIONS = ("prepare", "index", "retrieve", "warmup", "train", "evaluate")
KEYS = {"output_dir", "model_name_or_path", *SECTIONS}
SPLITS = ("train", "dev")
WARMED = ("generator", "selector")
SOURCES = {
    *("corpus", "input", "index_dir", "from_run", "teacher_run"),
    *("dataset_name", "eval_dataset_name", "model_name_or_path", "generator_name_or_path"),
}
"""Options that lead to something to read."""
_DATA_SUFFIXES = {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".txt"}
_OWN_RECIPE = ("output_dir", "resume", "resume_from_checkpoint")


def plan_run(path: Path, commands: Mapping[str, Any], output_dir: Path | None = None) -> list[Stage]:
    """Read a run's recipe and return its stages in order, each option checked and each input there.

    Args:
        path: The recipe, or its name.
        commands: The program's commands by name; their options are what a section may say.
        output_dir: In place of the recipe's.

    Raises:
        ValueError: If a section or a key is unknown (the nearest known one is named), missing or of the wrong kind.
        FileNotFoundError: If the recipe, or a file that no stage makes, is missing.
    """
    path = find_recipe(str(path), "runs")
    lines = read_recipe(path)
    refuse_unknown(lines, KEYS, str(path))
    if output_dir is None and not lines.get("output_dir"):
        raise ValueError(f"{path}: output_dir is not set; add it, or pass --output_dir")
    for name in SECTIONS:
        if name in lines:
            _check_mapping(lines[name], f"{path}: {name}")
    if not any(name in lines for name in SECTIONS):
        raise ValueError(f"{path}: has no section; the sections are {', '.join(SECTIONS)}")
    plan = _Plan(path, output_dir or Path(lines["output_dir"]), lines, commands)
    for name in SECTIONS:
        if name in lines:
            getattr(plan, f"add_{name}")(_with_new_names(lines[name], name, f"{path}: {name}"))
    _check_sources(plan.stages, path)
    return plan.stages


class _Plan:
    """The stages so far, and what they have made for those that follow."""

    def __init__(self, path: Path, output_dir: Path, lines: dict[str, Any], commands: Mapping[str, Any]) -> None:
        self.path, self.output_dir, self.lines, self.commands = path, output_dir, lines, commands
        self.stages: list[Stage] = []
        self.questions: dict[str, str] = {}
        self.index: dict[str, str] = {}
        self.warmed: dict[str, str] = {}
        self.starts: dict[str, Any] = {}
        self.model: dict[str, str] = {}

    def add_prepare(self, section: dict[str, Any]) -> None:
        stage = self.new_stage("prepare")
        seed = section.pop("shuffle_seed", 0)
        corpus = (self.lines.get("index") or {}).get("corpus")
        defaults = {} if corpus is None or section.get("no_gold") else {"corpus": corpus}
        for split, parts in self.pop_splits(section, "prepare"):
            output = stage.folder / f"{split}.jsonl"
            entries = parts if isinstance(parts, list) else [parts]
            outputs = [stage.folder / f"{split}-{n}.jsonl" for n in range(1, len(entries) + 1)]
            for number, (entry, part) in enumerate(zip(entries, outputs, strict=True), start=1):
                where = f"prepare.{split}[{number}]" if len(entries) > 1 else f"prepare.{split}"
                _check_mapping(entry, f"{self.path}: {where}")
                given = {**section, **entry}
                self.add_command(stage, where, given, defaults, {"output": output if len(entries) == 1 else part})
            if len(entries) > 1:
                self.add_command(stage, "mix", {"seed": seed}, {}, {"input": outputs, "output": output})
            self.questions[split] = str(output)
            stage.products.append(output.name)
        if not stage.commands:
            raise ValueError(f"{self.path}: prepare has neither `train` nor `dev`; nothing would be prepared")

    def add_index(self, section: dict[str, Any]) -> None:
        stage = self.new_stage("index")
        # In its own folder only its own index can be in the way: one whose record was not written any more.
        self.add_command(stage, "index", section, {}, {"index_dir": stage.folder / "index", "overwrite": True})
        stage.products.append("index")
        self.index = {"index_dir": str(stage.folder / "index")}

    def add_retrieve(self, section: dict[str, Any]) -> None:
        stage = self.new_stage("retrieve")
        given = dict(self.pop_splits(section, "retrieve"))
        for split in SPLITS:
            if split not in given and split not in self.questions:
                continue
            where, own = f"retrieve.{split}", given.get(split) or {}
            _check_mapping(own, f"{self.path}: {where}")
            options = {**section, **own}
            defaults = {"input": self.questions[split]} if split in self.questions else {}
            if not {"index_dir", "prebuilt", "corpus"} & options.keys():
                defaults |= self.index
                if not self.index:
                    raise ValueError(f"{self.path}: retrieve has no index; add a section `index`, or set index_dir")
            if split == "dev" and options.get("add_gold"):
                raise ValueError(
                    f"{self.path}: {where}: add_gold would put the gold passages among the candidates that are "
                    "evaluated; set it under retrieve.train"
                )
            output = stage.folder / f"{split}.jsonl"
            self.add_command(stage, where, options, defaults, {"output": output})
            self.questions[split] = str(output)
            stage.products.append(output.name)
        if not stage.commands:
            raise ValueError(f"{self.path}: retrieve has no questions; add a section `prepare`, or set train.input")

    def add_warmup(self, section: dict[str, Any]) -> None:
        refuse_unknown(section, WARMED, f"{self.path}: warmup")
        for part in WARMED:
            if part in section:
                where = f"warmup.{part}"
                _check_mapping(section[part], f"{self.path}: {where}")
                stage = self.new_stage(where)
                # A selector's teacher may be the generator, which is warm by then.
                asked = self.warmed and section[part].get("teacher") == "likelihood"
                warm = {"generator_name_or_path": self.warmed["generator"]} if asked else {}
                recipe = self.add_recipe(stage, ["warmup", part], section[part], warm, {})
                self.warmed[part] = str(stage.folder / "model")
                own = recipe.get("generator_name_or_path") if part == "generator" else None
                self.starts[part] = own or recipe["model_name_or_path"]

    def add_train(self, section: dict[str, Any]) -> None:
        names = {"selector": "model_name_or_path", "generator": "generator_name_or_path"}
        # Where only one of the two is warmed up, the other starts from what that one started from.
        starts = {names[part]: start for other, start in self.starts.items() for part in names if part != other}
        warmed = {names[part]: model for part, model in self.warmed.items()}
        stage = self.new_stage("train")
        self.add_recipe(stage, ["train"], section, starts, warmed)
        self.model = {"model_name_or_path": str(stage.folder / "model")}

    def add_evaluate(self, section: dict[str, Any]) -> None:
        stage = self.new_stage("evaluate")
        defaults: dict[str, Any] = {
            **self.model,
            **({"dataset_name": self.questions["dev"]} if "dev" in self.questions else {}),
        }
        if self.model:
            trained = self.stages[-2]
            stage.python_path = trained.python_path
            if "model_name_or_path" not in section and names_code(trained.recipe or {}):
                # The policy is of this run's own recipe.
                defaults["trust_remote_code"] = True
        self.add_command(stage, "evaluate", section, defaults, {"output_dir": stage.folder})
        stage.products.append("results.json")

    def new_stage(self, name: str) -> Stage:
        """Add a stage without commands."""
        section = name.partition(".")[0]
        number = SECTIONS.index(section) + 1
        self.stages.append(Stage(name, section, self.output_dir / f"{number}-{name.replace('.', '-')}"))
        return self.stages[-1]

    def pop_splits(self, section: dict[str, Any], name: str) -> list[tuple[str, Any]]:
        """Take `train` and `dev` out of a section, which leaves the options that are common to both."""
        return [(split, section.pop(split)) for split in SPLITS if split in section]

    def add_command(
        self, stage: Stage, where: str, given: dict[str, Any], defaults: dict[str, Any], made: dict[str, Any]
    ) -> None:
        """Add a command to a stage: what its section says, else the default; `made` is not for the section to say."""
        name = where.partition(".")[0]
        command, label = self.commands[name], f"{self.path}: {where}"
        parameters = {
            option[2:]: parameter
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--") and "-" not in option[2:]
        }
        if own := sorted(given.keys() & made.keys()):
            raise ValueError(f"{label}: {own[0]} is set by the run; take it out")
        refuse_unknown(given, parameters.keys() - made.keys() - {"help"}, label)
        options = {**defaults, **given}
        arguments = [
            word for key, value in {**options, **made}.items() for word in _words(key, value, parameters, label)
        ]
        try:
            command.make_context(name, list(arguments))
        except TyperException as error:
            raise ValueError(f"{label}: {error.format_message()}") from None
        stage.commands.append([name, *arguments])
        self.record(stage, where, options)

    def add_recipe(
        self,
        stage: Stage,
        command: list[str],
        section: dict[str, Any],
        starts: dict[str, Any],
        warmed: dict[str, Any],
    ) -> dict[str, Any]:
        """Add a command that takes a recipe: the section's lines, those of what was made before, those of its file."""
        label, section = f"{self.path}: {stage.name}", dict(section)
        for key in _OWN_RECIPE:
            if key in section:
                raise ValueError(f"{label}: {key} is set by the run, which resumes what was interrupted; take it out")
        launch, named = section.pop("launch", None), section.pop("recipe", None)
        file = None if named is None else find_recipe(str(named), "warmup" if command[0] == "warmup" else "")
        options = KINDS[command[0]].options
        base = {} if file is None else read_recipe(file)
        for lines, where in ((section, label), (base, str(file))):
            refuse_unknown(lines, options, where)
            lines.update(check_values(lines, options, where))
        common = {key: self.lines[key] for key in ("model_name_or_path",) if key in self.lines}
        made = {**warmed, **({"dataset_name": self.questions["train"]} if "train" in self.questions else {})}
        recipe = {**starts, **common, **base, **made, **section}
        if recipe.get("shared_base") and "generator_name_or_path" not in {**base, **made, **section}:
            recipe.pop("generator_name_or_path", None)
        if recipe.get("eval_strategy") not in (None, False, "no") and "dev" in self.questions:
            recipe["eval_dataset_name"] = section.get("eval_dataset_name", self.questions["dev"])
        for key in ("model_name_or_path", "dataset_name"):
            if not recipe.get(key):
                raise ValueError(f"{label}: {key} is not set, and no stage before makes it")
        self.record(stage, stage.name, {key: value for key, value in recipe.items() if key not in _OWN_RECIPE})
        if launch is not None:
            _check_mapping(launch, f"{label}: launch")
            if "config_file" in launch:
                launch = {**launch, "config_file": str(find_recipe(str(launch["config_file"]), "accelerate"))}
            stage.launch = [word for key, value in launch.items() for word in _launch_words(key, value)]
            stage.sources |= {f"launch.{key}": value for key, value in launch.items() if _is_file(value)}
        folders = [self.path.parent, *([] if file is None else [file.parent])]
        self.find_modules(stage, recipe, folders, label)
        stage.recipe = {**recipe, "output_dir": str(stage.folder / "model"), "resume": True}
        stage.commands.append([*command, "--config", str(stage.folder / "recipe.yaml")])
        stage.products.append("model")
        return recipe

    def record(self, stage: Stage, where: str, options: dict[str, Any]) -> None:
        """Note a command's options, and which of them lead to what it reads."""
        read = {key for key, value in options.items() if key in SOURCES and isinstance(value, str) or _is_file(value)}
        stage.sources |= {f"{where}.{key}": str(options[key]) for key in sorted(read)}
        stage.options[where] = {key: value for key, value in options.items() if key not in read}

    def find_modules(self, stage: Stage, recipe: dict[str, Any], folders: Iterable[Path], label: str) -> None:
        """Note the files of rewards and policies that are not of an installed package; an edit is another input."""
        named = [
            ("policy", recipe.get("policy")),
            *(("reward_funcs", name) for name in recipe.get("reward_funcs") or []),
        ]
        for key, dotted in named:
            top = str(dotted).partition(".")[0]
            if not isinstance(dotted, str) or top == "dro_trl":
                continue
            folder = next((f for f in (Path(), *folders) if PathFinder.find_spec(top, [str(f.resolve())])), None)
            if folder is None and importlib.util.find_spec(top) is None:
                raise ValueError(
                    f"{label}: {key}: no module {top!r} beside the recipe, in the working directory or in PYTHONPATH"
                )
            if folder is not None:
                file = folder / f"{top}.py"
                stage.sources[f"{stage.name}.{key}.{top}"] = str(file if file.is_file() else folder / top)
                if folder.resolve() != Path.cwd() and str(folder) not in stage.python_path:
                    stage.python_path.append(str(folder))


def _with_new_names(section: Mapping[str, Any], command: str, where: str) -> dict[str, Any]:
    """Return a section, and what it says of each split, under the new names of its options."""
    found = with_new_names(section, command, where)
    for split in SPLITS if command in ("prepare", "retrieve") else ():
        parts, name = found.get(split), f"{where}.{split}"
        if isinstance(parts, dict):
            found[split] = with_new_names(parts, command, name)
        elif isinstance(parts, list):
            found[split] = [with_new_names(p, command, name) if isinstance(p, dict) else p for p in parts]
    return found


def _check_mapping(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold `name: value` lines, found {value!r}")


def _words(key: str, value: Any, parameters: Mapping[str, Any], label: str) -> list[str]:
    """Return an option as words of a command line."""
    parameter, option = parameters[key], f"--{key}"
    if value is None:
        return []
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{label}: {key}={value!r} must be true or false")
        return [option] if value else list(parameter.secondary_opts[:1])
    if isinstance(value, (bool, dict)) or (isinstance(value, list) and not parameter.multiple):
        raise ValueError(f"{label}: {key} must be one {'list or ' * parameter.multiple}value, found {value!r}")
    return [word for entry in (value if isinstance(value, list) else [value]) for word in (option, str(entry))]


def _launch_words(key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}"] if value else []
    return [f"--{key}", str(value)]


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 4096 and Path(value).is_file()


def _check_sources(stages: list[Stage], path: Path) -> None:
    """Refuse a file or folder that is not there and that no stage makes; a name on the hub cannot be checked."""
    made = {str(stage.folder / product) for stage in stages for product in stage.products}
    for stage in stages:
        for name, source in stage.sources.items():
            file = Path(source)
            on_hub = not file.is_absolute() and source.count("/") <= 1 and file.suffix not in _DATA_SUFFIXES
            local = ("corpus", "index_dir", "from_run")
            only_local = name.rpartition(".")[2] in local or name == "evaluate.model_name_or_path"
            if source not in made and not file.exists() and (only_local or not on_hub):
                raise FileNotFoundError(f"{path}: {name}: no such file or folder: {source}")
