"""What options name that is read or written, looked at before torch is imported, which takes seconds."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from dro_trl.names import is_path, near
from dro_trl.recipes.file import find_recipe, read_recipe

Values = Mapping[str, Any]
Check = Callable[[str, str, Values], None]
"""Takes what to call the option, what it names, and the values of all; raises one line that says what to do."""

ROW_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_SAVED_TO_DISK = ("dataset_info.json", "dataset_dict.json")


def check_read(said: str, name: str, values: Values) -> None:
    """Refuse a file that is missing, a folder, or empty."""
    path = Path(name)
    if path.is_dir():
        raise IsADirectoryError(f"{said}: is a folder; name a file{_in(path)}")
    _check_file(said, path)


def check_corpus(said: str, name: str, values: Values) -> None:
    """Refuse a file that is missing or empty; a folder of files is one as well."""
    if not Path(name).is_dir():
        _check_file(said, Path(name))


def check_source(said: str, name: str, values: Values) -> None:
    """As `check_read`, but for BEIR's folders, and leave what may be a name on a hub."""
    if is_path(name) or Path(name).suffix:
        (check_corpus if values.get("dataset") == "beir" else check_read)(said, name, values)


def check_launch(said: str, name: str, values: Values) -> None:
    """Refuse what is no config of accelerate, a file or one of the recipes."""
    read_recipe(find_recipe(name, "accelerate"))


def check_sizes(said: str, name: str, values: Values) -> None:
    """Refuse what is neither a model's configuration, nor a folder of one, here or on a hub, nor a known name."""
    from dro_trl.models.files import CONFIG, MODEL_FILES
    from dro_trl.recipes.estimates.known_models import NAMED, known_sizes

    path = Path(name)
    give = f"give --model_config a folder, a {CONFIG}, or one of {', '.join(NAMED)}"
    if known_sizes(name) is not None:
        return
    if path.is_dir():
        if not any((path / file).exists() for file in MODEL_FILES):
            raise FileNotFoundError(f"{said}: holds no {CONFIG}; {give}")
    elif is_path(name) or path.suffix == ".json":
        _check_file(said, path, give)
    else:
        from dro_trl.models.names import check_on_hub

        try:
            check_on_hub(said, name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; {give}") from error


def check_folder(said: str, name: str, values: Values) -> None:
    """Refuse a folder that is missing, or a file."""
    _check_is_folder(said, Path(name), "give the path of one that is there")


def check_index(said: str, name: str, values: Values) -> None:
    """Refuse a folder that is missing, or holds no index."""
    path, build = Path(name), f"build one with `dro-trl index --corpus corpus.jsonl --index_dir {name}`"
    _check_is_folder(said, path, build)
    if not any(path.glob("segments_*")):
        raise FileNotFoundError(f"{said}: holds no Lucene index (no file segments_*); give the folder of one")


def check_pair(said: str, name: str, values: Values) -> None:
    """Refuse what is no trained pair, here or on a hub."""
    from dro_trl.models.files import CONFIG_NAME
    from dro_trl.models.replacing import STAGING

    path = Path(name)
    if not is_path(name):
        from dro_trl.models.names import check_on_hub, is_on_hub

        if is_on_hub(name):
            check_on_hub(said, name, (CONFIG_NAME,), revision=values.get("revision"))
            return
    give = "give the output_dir of a DROTrainer run, or a name on a hub such as user/pair"
    _check_is_folder(said, path, give)
    if not (path / CONFIG_NAME).is_file():
        torn = " (what is there was left by a save that was killed)" if (path / STAGING).is_dir() else ""
        raise FileNotFoundError(f"{said}: {path / CONFIG_NAME} does not exist; {give}{torn}")


def check_model(said: str, name: str, values: Values) -> None:
    """Refuse what is no model to start from, here or on a hub."""
    if "gguf_file" in (values.get("model_init_kwargs") or {}):
        return
    from dro_trl.models.files import MODEL_FILES

    if not is_path(name):
        from dro_trl.models.names import check_on_hub

        check_on_hub(said, name, revision=values.get("model_revision"))
        return
    give = "give the folder of a model, or its name on a hub such as org/model"
    _check_is_folder(said, Path(name), give)
    if not any((Path(name) / file).exists() for file in MODEL_FILES):
        raise FileNotFoundError(f"{said}: holds no model (no file {' or '.join(MODEL_FILES)}); {give}")


def check_dataset(said: str, name: str, values: Values) -> None:
    """Refuse what is neither rows in a file, nor a folder of them, nor a dataset on a hub."""
    path = Path(name)
    if path.suffix in ROW_SUFFIXES:
        check_read(said, name, values)
    elif path.is_dir():
        if not any((path / file).is_file() for file in _SAVED_TO_DISK):
            raise FileNotFoundError(f"{said}: is no folder that `save_to_disk` wrote; name a file{_in(path)}")
    elif is_path(name):
        _check_file(said, path)
        raise ValueError(f"{said}: files of this kind are not read; give one of {', '.join(ROW_SUFFIXES)}")
    else:
        from dro_trl.data.hub import find_on_hub

        if (reason := find_on_hub(name)) is not None:
            raise FileNotFoundError(
                f"{said}: no such file or folder{near(path, is_folder=False)}, and no such dataset could be had from "
                f"the hub: {reason}"
            )


def check_output_folder(said: str, name: str, values: Values) -> None:
    """Refuse a folder that is a file, or cannot be made."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{said}: is a file; give the path of a folder")
    _check_can_be_made(said, path)


def check_merged(said: str, name: str, values: Values) -> None:
    """As `check_output_folder`, and refuse the pair that is merged."""
    check_output_folder(said, name, values)
    if Path(name).resolve() == Path(values["model"]).resolve():
        raise ValueError(f"{said}: is the pair itself; give another folder")


def check_output_file(said: str, name: str, values: Values) -> None:
    """Refuse a file that is a folder, or whose folder cannot be made."""
    if Path(name).is_dir():
        raise IsADirectoryError(f"{said}: is a folder; give the path of a file")
    _check_can_be_made(said, Path(name).parent)


OPTIONS: Mapping[str, Check] = {
    "accelerate_config": check_launch,
    "config": lambda *_: None,  # What reads a recipe finds it.
    "corpus": check_corpus,
    "dataset_name": check_dataset,
    "from_run": check_read,
    "index_dir": check_index,
    "input": check_read,
    "model_config": check_sizes,
    "model_name_or_path": check_pair,
    "output": check_output_file,
    "output_dir": check_output_folder,
    "output_run": check_output_file,
    "run": check_read,
}
"""Of the commands, by name; of each what it has to name."""
OF_COMMAND: Mapping[tuple[str, str], Check] = {
    ("index", "index_dir"): check_output_folder,
    ("merge", "output_dir"): check_merged,
    ("prepare", "input"): check_source,
}
"""What an option names in one command alone."""
LINES: Mapping[str, Check] = {
    "model_name_or_path": check_model,
    "generator_name_or_path": check_model,
    "dataset_name": check_dataset,
    "eval_dataset_name": check_dataset,
    "teacher_run": check_read,
    "output_dir": check_output_folder,
    "resume_from_checkpoint": check_folder,
}
"""Of recipes, by name."""


def check_options(command: str, given: Mapping[str, Any], values: Values) -> None:
    """Look at what the options of a command name.

    Args:
        command: Its name.
        given: Values of its options, by their names on the command line without hyphens before.
        values: Values of its parameters.

    Raises:
        OSError: If something is not there or cannot be made; names the option, the path and what to do.
        ValueError: If a file is empty, or of another kind; likewise.
    """
    for name, value in given.items():
        check = OF_COMMAND.get((command, name)) or OPTIONS.get(name)
        if check is not None and value is not None:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                check(f"--{name} {one}", str(one), values)


def check_lines(lines: Values, source: str, leave: Collection[str] = ()) -> None:
    """Look at what the lines of a recipe name.

    Args:
        lines: Values by name.
        source: Where they stand.
        leave: Lines that are not read.

    Raises:
        OSError: As `check_options`.
        ValueError: As `check_options`.
    """
    for name, check in LINES.items():
        value = lines.get(name)
        if name not in leave and isinstance(value, str) and value:
            check(f"{source}: {name} {value}", value, lines)


def _check_file(said: str, path: Path, give: str = "give the path of one that is there") -> None:
    if not path.exists():
        raise FileNotFoundError(f"{said}: no such file{near(path, is_folder=False)}; {give}")
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{said}: the file is empty; give one that is whole")


def _check_is_folder(said: str, path: Path, give: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{said}: no such folder{near(path)}; {give}")
    if not path.is_dir():
        raise NotADirectoryError(f"{said}: is a file; {give}")


def _check_can_be_made(said: str, path: Path) -> None:
    above = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{said}: {above} is a file; give a path that is in a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{said}: no permission to write in {above}; give another path")


def _in(folder: Path) -> str:
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_file())[:3]
    return f" in it, such as {', '.join(found)}" if found else ""
