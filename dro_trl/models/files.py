"""What a model's folder holds, looked at before anything is loaded from it."""

import contextlib
import filecmp
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dro_trl.files.writing import load_object

ADAPTER_CONFIG = "adapter_config.json"
CONFIG = "config.json"
CONFIG_NAME = "dro_config.json"
MODEL_FILES = (CONFIG, ADAPTER_CONFIG, CONFIG_NAME)
"""One of them is in every model's folder: a whole one's, an adapter's, a pair's."""
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")

COPY_AGAIN = "save or copy it again"
"""What to do about a damaged file of a model."""
NAMED = 3
"""How many tensors or files a message names."""


@contextlib.contextmanager
def one_line(source: str | Path, what: str, done: str = "loaded as") -> Iterator[None]:
    """Turn whatever another library raises in this context into one line that names where it was reading.

    Raises:
        OSError: In place of one.
        ValueError: In place of anything else, but want of memory.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        said = " ".join(str(error).split())
        shown = f"{said[:300]}…" if len(said) > 300 else said
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{source} cannot be {done} {what} ({type(error).__name__}: {shown})") from error


def named(names: Collection[str]) -> str:
    """Return the first few of some names, and how many there are.

    >>> named(["d", "b", "c", "a"])
    'a, b, c, … (4)'
    """
    first = sorted(names)[:NAMED]
    return ", ".join(first) + (f", … ({len(names)})" if len(names) > NAMED else "")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, or what is left of one."""
    return any((folder / name).exists() for name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS))


def check_model_files(folder: Path, saved: bool = False) -> None:
    """Refuse a folder whose files are not those of one model, or cannot be read.

    Args:
        folder: The folder.
        saved: Whether `save_pretrained` of a model wrote it, which leaves its weights there in any case.

    Raises:
        FileNotFoundError: If the folder or a file that it needs is missing.
        ValueError: If a file is damaged, or files of two models are there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist, or is no folder")
    whole = sorted(
        path.name for pattern in ("model*.safetensors", INDEX, "pytorch_model*.bin") for path in folder.glob(pattern)
    )
    if is_adapter(folder):
        _check_adapter_files(folder, whole)
        return
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder / CONFIG} does not exist; {folder} holds no whole model")
    if saved and not whole:
        raise FileNotFoundError(f"{folder / WEIGHTS} does not exist, which {CONFIG} belongs to; copy it again")
    for name in (CONFIG, GENERATION_CONFIG, INDEX):
        if (folder / name).is_file():
            load_object(folder / name, COPY_AGAIN, foreign=True)
    if (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        raise ValueError(
            f"{folder} holds the weights of two models, {WEIGHTS} and {INDEX}; remove those of the earlier one"
        )
    keys = {path.name: tensor_names(path) for path in sorted(folder.glob("model*.safetensors"))}
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX, keys)


def _check_adapter_files(folder: Path, whole: list[str]) -> None:
    adapter = [name for name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS) if (folder / name).exists()]
    if whole:
        raise ValueError(
            f"{folder} holds an adapter ({named(adapter)}) and a whole model ({named(whole)}), of which only one "
            "belongs there; remove the files of the other"
        )
    if ADAPTER_CONFIG not in adapter:
        raise FileNotFoundError(f"{folder / ADAPTER_CONFIG} does not exist, without which {adapter[0]} is of no use")
    if len(adapter) == 1:
        raise FileNotFoundError(f"{folder / ADAPTER_WEIGHTS[0]} does not exist, which {ADAPTER_CONFIG} belongs to")
    load_object(folder / ADAPTER_CONFIG, COPY_AGAIN)
    if ADAPTER_WEIGHTS[0] in adapter:
        tensor_names(folder / ADAPTER_WEIGHTS[0])


def tensor_names(path: Path) -> set[str]:
    """Return the names of a file's tensors, without reading them.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); save or copy it again") from error


def _check_index(path: Path, keys: dict[str, set[str]]) -> None:
    of_tensor = load_object(path, COPY_AGAIN, foreign=True).get("weight_map")
    if not isinstance(of_tensor, dict) or not of_tensor:
        raise ValueError(f"{path} has no weight_map that says which file holds which tensor")
    if absent := {str(name) for name in of_tensor.values()} - keys.keys():
        raise FileNotFoundError(f"{path.parent} lacks {named(absent)}, which {path.name} names; copy it again")
    if lost := [tensor for tensor, name in of_tensor.items() if tensor not in keys[str(name)]]:
        raise ValueError(f"{path} names tensors that their files do not hold: {named(lost)}")


def check_tokenizer_files(folder: Path, saved: bool = False) -> None:
    """Refuse a folder without a vocabulary, of which a tokenizer of nothing would be made.

    Args:
        folder: The folder.
        saved: Whether `save_pretrained` of a tokenizer wrote it, which leaves its settings there as well.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If its settings are no JSON, or lack their class.
    """
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        raise FileNotFoundError(f"{folder / VOCABULARIES[0]} does not exist; {folder} holds no tokenizer")
    settings = folder / "tokenizer_config.json"
    if saved and not settings.is_file():
        raise FileNotFoundError(f"{settings} does not exist, without which the special tokens are not known")
    if settings.is_file():
        load_object(settings, COPY_AGAIN, *(["tokenizer_class"] if saved else []), foreign=True)


def same_tokenizer_files(first: Path, second: Path) -> bool:
    """Whether the tokenizers of two folders are the same: whether all files are that are not the models' weights."""
    names = [_beside_weights(folder) for folder in (first, second)]
    compared = sorted(names[0])
    return names[0] == names[1] and filecmp.cmpfiles(first, second, compared, shallow=False)[0] == compared


def _beside_weights(folder: Path) -> set[str]:
    of_model = ("adapter_*", "model*.safetensors", INDEX, "pytorch_model*", GENERATION_CONFIG, "README.md")
    left_out = {path for pattern in of_model for path in folder.glob(pattern)}
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in left_out}
