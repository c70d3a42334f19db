"""What models are called in what is saved: by a name on a hub, or by where they are as seen from there."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils.hub import cached_file

from dro_trl.files.writing import load_object, write_json
from dro_trl.models.files import ADAPTER_CONFIG, COPY_AGAIN, MODEL_FILES
from dro_trl.models.files import CONFIG_NAME as CONFIG_NAME
from dro_trl.names import is_path, near

BASE = "base_model_name_or_path"
PAIR_FILES = ("selector/*", "generator/*", "base/**", CONFIG_NAME, "value_head.safetensors")
_IN_CACHE = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/[0-9a-f]+/?$")
_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+$")


def portable(name: str | None, home: Path) -> str | None:
    """Return what to call a model in a folder: its name on a hub, or `./…` or `../…`, as seen from the folder.

    Args:
        name: Its name on a hub, or its folder; nothing for one made in memory.
        home: The folder.
    """
    if not name or not Path(name).is_dir():
        return name
    if cached := _IN_CACHE.search(Path(name).resolve().as_posix()):
        return f"{cached['owner']}/{cached['name']}"
    relative = Path(os.path.relpath(Path(name).resolve(), home.resolve())).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def located(name: str, home: Path) -> str:
    """Return where the model is that `portable` gave a name; other names as they are."""
    if name.startswith("."):
        return str((home / name).resolve())
    return name


def settle(folder: Path, home: Path, came_from: Path | None = None) -> None:
    """Give the base of an adapter that was just written a portable name, and take PEFT's empty model card away.

    Args:
        folder: Where the adapter is; nothing is done to a whole model.
        home: Where it will be.
        came_from: The folder that it was copied from, where it was.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return
    config = load_object(path, COPY_AGAIN)
    if isinstance(config.get(BASE), str):
        config[BASE] = portable(located(config[BASE], came_from or folder), home)
        write_json(path, config)
    (folder / "README.md").unlink(missing_ok=True)


def is_on_hub(name: str | Path) -> bool:
    """Whether a name is one on a hub, and not that of a folder here."""
    return bool(_ON_HUB.match(str(name))) and not Path(name).exists()


def nowhere(name: str | Path, said: str = "") -> str:
    """Say that a model was found neither here nor on the hub; `said` is what to call it, its name where not given."""
    offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return (
        f"{said or name} is no folder here{near(name)}, and nothing of that name could be had from "
        f"{constants.ENDPOINT} or found in its cache {constants.HF_HUB_CACHE}{offline}"
    )


def check_there(option: str, name: str, **where: Any) -> None:
    """Refuse the name of a model that is neither a folder nor to be had from a hub, before anything is loaded.

    Args:
        option: That the name was given with.
        name: The name. One that is the path of a folder, whether or not it is there, is not looked for on a hub.
        where: Of the arguments of `from_pretrained` those that say where on a hub a model is.

    Raises:
        FileNotFoundError: Names the option, and where was looked.
    """
    if Path(name).is_dir():
        return
    if is_path(name):
        raise FileNotFoundError(f"{option}: {name} does not exist, or is no folder")
    check_on_hub(f"{option}: {name}", name, **where)


def check_on_hub(said: str, name: str, files: Sequence[str] = MODEL_FILES, **where: Any) -> None:
    """Refuse a name that a hub does not have.

    Args:
        said: What to call it.
        name: The name.
        files: One of them is asked for.
        where: As in `check_there`.

    Raises:
        FileNotFoundError: Names where was looked.
    """
    if not any(_on_hub(name, file, **where) for file in files):
        raise FileNotFoundError(nowhere(name, said))


def _on_hub(name: str, file: str, **where: Any) -> str | None:
    """Return the path of a hub's file, downloaded or in the cache, None where there is none."""
    options: dict[str, Any] = dict.fromkeys(
        (f"_raise_exceptions_for_{of}" for of in ("gated_repo", "missing_entries", "connection_errors")), False
    )
    found: str | None = cached_file(name, file, **where, **options)
    return found


def pair_folder(name: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a pair, downloaded (or found in the cache) where its name on a hub is given.

    Raises:
        FileNotFoundError: If it cannot be had.
    """
    if not is_on_hub(name):
        return Path(name)
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(PAIR_FILES)))
    except (LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(nowhere(name)) from error


def find_pair(name: Any, revision: str | None = None) -> Path | None:
    """Return the folder of a pair, None where something else is named."""
    if not isinstance(name, str):
        return None
    if not is_on_hub(name):
        return Path(name).resolve() if (Path(name) / CONFIG_NAME).is_file() else None
    return pair_folder(name, revision) if _on_hub(name, CONFIG_NAME, revision=revision) else None


def upload(
    folder: Path,
    name: str,
    repo_id: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Upload a pair to a hub, its card with the name that it has there, and return where the commit is.

    Args:
        folder: Of the pair; its card is changed.
        name: What the card calls it.
        repo_id: As in `huggingface_hub.HfApi`, as are the others.
        private: Whether the repository is, where it is made.
        token: For the hub.
        revision: The branch.
        commit_message: Of the commit.
    """
    if (card := folder / "README.md").is_file():
        text = card.read_text(encoding="utf-8")
        card.write_text(
            text.replace(f"folder = {json.dumps(name, ensure_ascii=False)}", f'folder = "{repo_id}"'), encoding="utf-8"
        )
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    done = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)
    return str(done.commit_url)
