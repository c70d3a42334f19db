"""Files that may be compressed with gzip, told by their content and not by their name."""

import gzip
import io
from typing import BinaryIO, cast

_MAGIC = b"\x1f\x8b"


def decompressed(file: io.BufferedReader) -> BinaryIO:
    """Return a stream of the file's bytes, decompressed where it is a gzip file.

    Args:
        file: Opened at its start. Its own `tell` goes on to say how many bytes of the file have been read.
    """
    if file.peek(len(_MAGIC))[: len(_MAGIC)] == _MAGIC:
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return file
