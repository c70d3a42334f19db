"""What every test relies on: no hub, and fixtures for the real data where it is at hand."""

import os
from pathlib import Path

# Before any test imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Processes side by side, each with the threads of all cores, wait.

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # How busy a machine is decides no test.
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: `$DRO_TRL_DATA`, else `../shared/data` beside the checkout."""
    given = os.environ.get("DRO_TRL_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if given and not folder.is_dir():
        raise FileNotFoundError(f"DRO_TRL_DATA={given} is not a folder; unset it to skip the tests on real data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there and DRO_TRL_DATA is not set")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
