"""Problems from a run: the models' own figures, before the steps that were asked for."""

import json
import sys

import problems_of_a_run
import torch
from distinct_selections import read_problems

from dro_trl import plackett_luce_logps, reduce_answer_logps
from tests.helpers.training import make_trainer


def test_scores_and_rewards_are_what_the_models_say(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run", max_steps=2)
    before = trainer.model.eval()
    row = trainer.train_dataset[0]
    selection = torch.tensor([[[2, 0]]])
    with torch.no_grad():
        output = before([row], selections=selection)
    logps = output.selector_logps.item()
    reward = reduce_answer_logps(output.answer_logps, output.answer_mask, "sum", "first").item()
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in trainer.train_dataset))
    monkeypatch.setattr(problems_of_a_run, "make_trainer", lambda *args: trainer)
    output = tmp_path / "problems.jsonl"
    options = ["--model", "a", "--dataset", str(data), "--at", "0", "1", "--num_questions", "2"]
    monkeypatch.setattr(sys, "argv", ["problems_of_a_run.py", *options, "--output", str(output)])
    problems_of_a_run.main()
    groups = read_problems(output)
    assert {name: len(problems) for name, problems in groups.items()} == {"step 0": 2, "step 1": 2, "all of them": 4}
    scores, selections, rewards = groups["step 0"][0]
    place = (selections == selection[0]).all(-1).nonzero().item()
    torch.testing.assert_close(plackett_luce_logps(scores[None], selection)[0].item(), logps, rtol=0, atol=1e-5)
    torch.testing.assert_close(rewards[place].item(), reward, rtol=0, atol=1e-5)
    assert (groups["step 1"][0][0] - scores).abs().max() > 0, "a step was taken between them"
