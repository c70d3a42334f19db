"""The loop that is there to be read computes what the trainer computes."""

import runpy

import pytest
import torch

from dro_trl.policies.randomness import random_generator
from tests.examples.conftest import EXAMPLES
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import logged, make_trainer


@pytest.fixture(scope="module")
def loop():
    return runpy.run_path(str(EXAMPLES / "dro_loop.py"))


def test_it_is_short(loop):
    assert len((EXAMPLES / "dro_loop.py").read_text().splitlines()) < 150


def test_its_numbers_are_the_trainers(loop, tmp_path):
    """Three updates of both models, with plain gradient descent, whose result moves as little as a gradient does."""
    steps, m, k, seed = 3, 5, 2, 42
    given = {"max_steps": steps, "num_selections": m, "num_selected": k, "seed": seed, "optim": "sgd"}
    trainer = make_trainer(tmp_path, learning_rate=0.1, **given)
    order, recorded = [], []
    watch = trainer.monitor.watch

    def note(rows, output, rewards, weight, step):
        order.append(rows)
        recorded.append({"selections": output.selections, "weights": weight, "rewards": rewards})
        watch(rows, output, rewards, weight, step)

    trainer.monitor.watch = note
    selector = tiny_model("llama", tiny_tokenizer())
    generator = tiny_model("llama", tiny_tokenizer())
    before = generator.lm_head.weight.detach().clone()
    trainer.train()
    optimizer = torch.optim.SGD([*selector.parameters(), *generator.parameters()], lr=0.1)
    losses = []
    for step in range(steps):
        randoms = [random_generator(seed, step, row["question"]) for row in order[step]]
        done = loop["dro_step"](selector, generator, tiny_tokenizer(), optimizer, order[step], randoms, k, m)
        losses.append(done["loss"])
        for mine, index in zip(done["questions"], range(2), strict=True):
            assert mine["selections"] == recorded[step]["selections"][index].tolist()
            for name in ("weights", "rewards"):
                torch.testing.assert_close(mine[name], recorded[step][name][index], atol=1e-6, rtol=1e-6)
    assert losses == pytest.approx(logged(trainer, "loss")[:steps], abs=1e-6, rel=1e-6)
    for mine, trained in ((selector, trainer.model.selector), (generator, trainer.model.generator)):
        for (name, weight), other in zip(mine.named_parameters(), trained.parameters(), strict=True):
            torch.testing.assert_close(weight, other, atol=1e-6, rtol=1e-6, msg=name)
    assert (generator.lm_head.weight - before).abs().max() > 1e-3  # They moved.


def test_it_runs(example_data, monkeypatch, capsys):
    start, rows = example_data
    arguments = ["dro_loop.py", "--model", start, "--dataset", rows, "--steps", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(EXAMPLES / "dro_loop.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said if line.startswith("step")] == ["step 0", "step 1"]
    assert sum(float(line.rpartition(" ")[2]) for line in said[1:5]) == pytest.approx(1, abs=0.03)
