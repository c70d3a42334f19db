"""Every accelerate config is one that accelerate takes, and says how it is launched and what it was tested on."""

import shlex

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from tests.helpers.launching import BACKENDS, REPOSITORY

CONFIGS = sorted((REPOSITORY / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_it(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.num_processes >= 1
    lines = path.read_text().splitlines()
    launched = next(line for line in lines if "accelerate launch" in line)
    words = shlex.split(launched.removeprefix("#"))
    assert words[:2] == ["accelerate", "launch"]
    assert (REPOSITORY / words[words.index("--config_file") + 1]) == path
    tested = next(line for line in lines if line.startswith("# Tested on: "))
    assert ("tests/integration/distributed" in " ".join(lines)) == (path.stem in BACKENDS), tested


def test_all_that_can_be_run_here_are_there():
    assert {path.stem for path in CONFIGS} >= {*BACKENDS, "single_gpu", "multi_gpu", "multi_node"}
