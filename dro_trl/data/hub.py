"""Datasets by their names on the hub, asked for without the library that reads them, whose import takes a second."""

import os
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name


def find_on_hub(name: str) -> str | None:
    """Return why no dataset of a name can be had from the hub or its cache, None where one can; nothing is fetched."""
    try:
        return None if HfApi().repo_exists(name, repo_type="dataset") else "there is none"
    except HFValidationError as error:
        return " ".join(str(error).split())
    except Exception as error:  # It cannot be reached, for which there is no one kind of error; the cache may hold it.
        return None if _is_cached(name) else f"none is in its cache, and {' '.join(str(error).split())}"


def _is_cached(name: str) -> bool:
    """Whether something of that name is in the hub's cache, or in that of `datasets`, which spells it otherwise."""
    prepared = os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
    downloaded = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    folders = os.listdir(prepared) if os.path.isdir(prepared) else []
    return downloaded.is_dir() or _letters(name) in map(_letters, folders)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "/_")
