"""What a pair's repository on a hub holds, sent by the real client to a server on this machine."""

import os
import subprocess
import sys
from pathlib import Path

from dro_trl import RAGPipeline
from tests.helpers.hub_server import hub_server
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start, write_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_a_recipe_with_push_to_hub_uploads_the_pair_and_its_own_card(tmp_path):
    """Two steps, a checkpoint after the first: what is sent on the way is a whole pair too, and so is the end."""
    save_start(tmp_path / "start")
    lines = {"push_to_hub": True, "hub_model_id": "someone/pair", "hub_token": "hf_s3cr3t", "hub_always_push": True}
    recipe = write_recipe(tmp_path, **lines, save_strategy="steps", save_steps=1)
    with hub_server() as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-m", "dro_trl", "train", "--config", recipe],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    assert hub.created == ["someone/pair"]
    assert hub.tokens == {"Bearer hf_s3cr3t"}
    assert {message for message, _ in hub.commits} == {
        "Training in progress, step 1",
        "Training in progress, step 2",
        "Model save",
    }
    wanted = {f"{name}/{part}" for name in ("selector", "generator") for part in ("model.safetensors", "config.json")}
    for message, files in hub.commits:
        assert files.keys() >= {*wanted, "dro_config.json", "README.md"}, message
        card = files["README.md"].decode()
        assert "# A selector and a generator trained by DRO" in card
        assert 'folder = "someone/pair"' in card
        assert [path for path, content in files.items() if b"s3cr3t" in content] == []
    _, files = hub.commits[-1]
    for path, content in files.items():
        (tmp_path / "again" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / path).write_bytes(content)
    rows = tiny_questions(4, 5)
    outputs = [RAGPipeline.from_pretrained(tmp_path / name).predict(rows) for name in ("out", "again")]
    assert outputs[0] == outputs[1]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"training_run.json", "training_args.bin"} <= {path.name for path in written}
    assert [path for path in written if b"s3cr3t" in path.read_bytes()] == []
    assert not any(path.startswith("checkpoint-") for path in files)
