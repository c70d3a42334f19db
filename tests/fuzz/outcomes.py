"""What may come of a damaged input: what is right, or an error of one line."""

import contextlib
import re

from dro_trl.cli.app import is_expected, message_of

RIGHT, REFUSED = "right", "refused"


def attempt(read, path):
    """Return what is read and no message, or no value and the message by which it is refused.

    Fails where it is refused by another library, without the name of its file, or in several lines; only faults of
    several rows have a line each.
    """
    try:
        return read(), None
    except Exception as error:
        message = message_of(error)
        _, *below = message.split("\n")
        rows = [line for line in below if re.match(r"  (row \d+: |and \d+ more$)", line)]
        if is_expected(error) and rows == below and str(path) in message:
            return None, message
        raise AssertionError(f"neither right nor refused in one line: {error!r}") from error


@contextlib.contextmanager
def holding(path, content):
    """Let a file hold something else for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield before
    finally:
        path.write_bytes(before)
