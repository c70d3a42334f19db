"""The card beside a trained pair."""

from pathlib import Path

from huggingface_hub import ModelCard

from dro_trl.model_card import write_model_card
from tests.training import make_trainer

TRAINING = {
    "policy": "dro_trl.PlackettLucePolicy",
    "policy_kwargs": {"retriever_prior": 0.5},
    "learnt_policy_kwargs": None,
    "num_selected": 2,
    "num_selections": 4,
    "max_passage_tokens": None,
    "learning_rate": 0.25,
    "generator_learning_rate": None,
    "control_variate": True,
    "entropy_coef": 0.0,
    "kl_coef": 0.0,
    "reward_temperature": 1.0,
    "steps_per_estimation": 1,
    "num_iterations": 1,
    "seed": 42,
}


def test_the_card_cites_the_paper_and_tells_options_and_last_measures(tmp_path):
    history = [
        {"reward": -5.0, "ess": 3.0},
        {"reward": -2.34567, "ess": 2.0, "selection_recall": 0.5},
        {"eval_loss": 1.0},
    ]
    write_model_card(tmp_path, TRAINING, history)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "dro-trl"
    assert {"dro", "trl"} <= set(card.data.tags)
    assert "@article{" in card.text
    assert "arXiv:2505.03075" in card.text
    assert "| `learning_rate` | `0.25` |" in card.text
    assert "| reward | -2.346 |" in card.text
    assert "| selection_recall | 0.500 |" in card.text
    assert "-5.0" not in card.text
    assert "iw_bound" not in card.text


def test_a_card_without_any_log(tmp_path):
    write_model_card(tmp_path, TRAINING, [])
    assert "none logged" in (tmp_path / "README.md").read_text()


def test_the_trainer_writes_it_with_its_own_values(tmp_path):
    trainer = make_trainer(tmp_path, seed=123, max_steps=1)
    trainer.train()
    trainer.save_model()
    text = Path(tmp_path / "README.md").read_text()
    assert "| `seed` | `123` |" in text
    assert f"| reward | {trainer.state.log_history[0]['reward']:.3f} |" in text
    for name in ("trl", "transformers", "torch"):
        assert f"{name} " in text.partition("Made with")[2]
