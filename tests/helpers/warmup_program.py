"""`dro-trl warmup` on a machine without an accelerator, whatever its processes were launched for."""

import sys

from dro_trl.cli import app
from dro_trl.trainer.warmup_trainer import WarmupTrainer
from tests.helpers.backends import backend_options, shard_everything


def main() -> None:
    train = WarmupTrainer.train

    def train_sharded(self, *args, **kwargs):
        """Train after the one change that no recipe makes."""
        shard_everything(self)
        return train(self, *args, **kwargs)

    WarmupTrainer.train = train_sharded
    app.app(["warmup", *sys.argv[1:], *(f"--{name}={value}" for name, value in backend_options().items())])


if __name__ == "__main__":
    main()
