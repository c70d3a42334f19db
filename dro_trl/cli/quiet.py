"""What stands on the terminal: not what other libraries say of themselves, nor one line in the middle of another."""

import logging
import os
import shutil
import sys
import textwrap
import warnings

NOISE = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "DeepSpeed": "Setting accelerator to CPU",
}
"""Beginnings of messages, by their loggers: of kernels that nothing asked for, of a device that is none."""


def quieten() -> None:
    """Leave out such messages, and the warnings that are for the libraries' own callers; before they are imported.

    What this package logs stands above the bars, and of several processes the first one's alone.
    """
    for name, beginning in NOISE.items():
        logging.getLogger(name).addFilter(_WithoutThat(beginning))
    warnings.simplefilter("ignore", FutureWarning)
    own = logging.getLogger(__name__.partition(".")[0])
    own.addHandler(_AboveBars())
    if os.environ.get("RANK", "0") != "0":  # All read the same files and options: the first says what there is to say.
        own.setLevel(logging.ERROR)


def load_quietly() -> None:
    """Have models loaded and written without bars, which do not say of what they are; downloads keep theirs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as of_transformers

    shown = not are_progress_bars_disabled()
    of_transformers.disable_progress_bar()
    if shown:
        enable_progress_bars()


class _AboveBars(logging.Handler):
    """Prints on standard error, above the bars that stand there; on a terminal lines end between words."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            lines = self.format(record).splitlines()
            if sys.stderr.isatty():
                width = shutil.get_terminal_size().columns - 1
                lines = [textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
            tqdm.write("\n".join(lines), file=sys.stderr)
        except Exception:  # As every handler: a message that cannot be printed ends no training.
            self.handleError(record)


class _WithoutThat(logging.Filter):
    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._beginning)
