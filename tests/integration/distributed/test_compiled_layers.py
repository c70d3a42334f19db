"""`torch_compile` on two processes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.launching import launch
from tests.integration.distributed.test_equivalence import train

pytestmark = pytest.mark.backends


CASES = {
    "plackett-luce, lora, off-policy": {"lora": True, "num_iterations": 2},
    "autoregressive, full, checkpointing": {
        "policy": "dro_trl.AutoregressivePolicy",
        "activation_checkpointing": True,
    },
}
COMPILED = {name: {**case, "max_steps": 4, "torch_compile_backend": "eager"} for name, case in CASES.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    plain = {name: {**case, "torch_compile_backend": None} for name, case in COMPILED.items()}
    return train("one", tmp_path_factory.mktemp("alone") / "one", plain)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["cpu_2proc", "fsdp2", "zero1", "zero2"])
def test_two_processes_with_compiled_layers_train_as_one_without(alone, backend, tmp_path):
    together = train(backend, tmp_path / backend, COMPILED)
    for case in CASES:
        expected, found = (load_file(folder / case / "weights.safetensors") for folder in (alone, together))
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0)


def test_zero3_is_refused(tmp_path):
    case = {"batch": 4, "lora": False, "evaluate": False, "rewards": [], "questions": [4, 5], "torch_compile": True}
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({"refused": case}))
    code, printed = launch("zero3", "tests.helpers.train_program", str(cases), check=False)
    assert code != 0
    assert "torch_compile=True and ZeRO-3 do not go together" in printed
    assert "use FSDP2 or ZeRO-2" in printed
