"""Folders whose content is replaced as a whole: a kill leaves the old, the new, or what is refused as neither."""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from dro_trl.files.writing import made_folder
from dro_trl.models.files import ADAPTER_CONFIG, CONFIG

STAGING = ".saving"
"""Folder in a folder to which its new content is written first."""
MODEL_FILES = (
    *(CONFIG, ADAPTER_CONFIG, "generation_config.json", "adapter_model.*", "model*.safetensors"),
    *("model.safetensors.index.json", "pytorch_model*", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates"),
    "training_args.bin",
)
"""Patterns of what a trainer, and `save_pretrained` of any model or tokenizer, write."""


@contextlib.contextmanager
def replacing(folder: Path, old: Collection[str], last: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder, whose content takes the place of what a folder holds at the end.

    Nothing is changed after an error. Once all is written, what says that the old content is whole is taken away, then
    the old content; the new takes its place, and last what says that it is whole.

    Args:
        folder: Made where it does not exist. What neither is old nor has a new name stays.
        old: Patterns of the files and folders that are taken away.
        last: Names of the files without which the others are not read.
    """
    staged = folder / STAGING
    shutil.rmtree(staged, ignore_errors=True)  # Of a save that was killed.
    with made_folder(folder):
        staged.mkdir()
        try:
            yield staged
        except BaseException:
            shutil.rmtree(staged)
            raise
        for name in last:
            (folder / name).unlink(missing_ok=True)
        for path in {path for pattern in old for path in folder.glob(pattern)}:
            _remove(path)
        new = sorted(staged.iterdir(), key=lambda path: path.name in last)
        for path in new:
            os.replace(path, folder / path.name)
        staged.rmdir()


def replacing_model(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Yield an empty folder, whose content takes the place of one model's files; others beside them stay."""
    return replacing(folder, MODEL_FILES, (CONFIG, ADAPTER_CONFIG))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
