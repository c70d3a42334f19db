"""Names of datasets, asked for where the hub cannot be reached."""

import subprocess
import sys

import pytest
from huggingface_hub import constants

from dro_trl.data.hub import find_on_hub


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path


def test_what_is_in_no_cache_cannot_be_had():
    assert find_on_hub("org/MyData").startswith("none is in its cache, and Cannot reach https://")
    assert "org//MyData" in find_on_hub("org//MyData")


@pytest.mark.parametrize("folder", ["hub/datasets--org--MyData", "datasets/org___my_data"])
def test_what_is_in_a_cache_may_be_had(caches, folder):
    (caches / folder).mkdir(parents=True)
    assert find_on_hub("org/MyData") is None
    assert find_on_hub("org/OtherData") is not None


def test_it_does_not_take_the_library_that_reads_them():
    program = "import sys, dro_trl.data.hub; print(sorted({'datasets', 'torch', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
