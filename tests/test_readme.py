"""The README's program, word for word, with a tiny model and few questions in place of Gemma and 160."""

import re
from pathlib import Path

import dro_trl.starter_model
from tests.training import save_start

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_program_runs(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(.+?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(program.splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRO_TRL_CACHE", str(tmp_path / "cache"))
    start = save_start(tmp_path / "start")
    monkeypatch.setattr(dro_trl.starter_model, "gemma_3_270m", lambda: start)
    names: dict[str, object] = {}
    exec(compile(program.replace("num_train=160", "num_train=8"), "README.md", "exec"), names)
    names["retriever"].close()
    assert names["trainer"].state.global_step == 2
    asked = names["world"].eval[0]["question"]
    assert f"RAGOutput(question={asked!r}, answer=" in capsys.readouterr().out
