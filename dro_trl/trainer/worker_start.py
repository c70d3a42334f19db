"""What workers need, imported by the process that they are forked from, and by no other.

It starts no thread, since a fork beside one may hang: `datasets` is left out, whose Arrow has one from its import on.
"""

import logging

logging.disable(logging.WARNING)  # What libraries say when they are imported, the trainer's process has said.
import dro_trl.policies.plackett_luce  # noqa: E402
import dro_trl.trainer.workers  # noqa: E402, F401

logging.disable(logging.NOTSET)
