"""Keeps out of the terminal what other libraries say about themselves, and what every process would say again."""

import logging
import os
import warnings

NOISE = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "DeepSpeed": "Setting accelerator to CPU",
}
"""Beginnings of messages, by their loggers: of kernels that nothing asked for, of a device that is none."""


def quieten() -> None:
    """Leave out such messages, and the warnings that are for the libraries' own callers; before they are imported."""
    for name, beginning in NOISE.items():
        logging.getLogger(name).addFilter(_WithoutThat(beginning))
    warnings.simplefilter("ignore", FutureWarning)
    if (
        os.environ.get("RANK", "0") != "0"
    ):  # All processes read the same files and options; the first says what of them.
        logging.getLogger(__name__.partition(".")[0]).setLevel(logging.ERROR)


def load_quietly() -> None:
    """Have models loaded and written without bars, which do not say of what they are; downloads keep theirs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as of_transformers

    shown = not are_progress_bars_disabled()
    of_transformers.disable_progress_bar()
    if shown:
        enable_progress_bars()


class _WithoutThat(logging.Filter):
    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._beginning)
