"""Teacher orders, found again after the candidates were shuffled."""

import gzip

import pytest
from datasets import Dataset

from dro_trl import PlackettLucePolicy, RAGPipeline
from dro_trl.evaluation.systems import Task, likelihood_order
from dro_trl.trainer.warmup_config import WarmupConfig
from dro_trl.trainer.warmup_teachers import teach
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import save_start


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"))


def rows_of():
    rows = tiny_questions(4, 5, 6)
    rows[1]["gold_ids"] = ["1-4", "1-0", "1-2"]
    return [{**row, "id": f"q{number}"} for number, row in enumerate(rows)]


def taught_ids(folder, start, rows=None, training=True, **options):
    """The ids of the passages of each question's selection."""
    args = WarmupConfig(str(folder), use_cpu=True, **{"num_selected": 2, **options})
    taught = teach(Dataset.from_list(rows or rows_of()), "train_dataset", args, tiny_tokenizer(), start, {}, training)
    prepared = taught.dataset.to_list()
    return [
        [row["candidates"][i]["id"] for i in selection]
        for row, selection in zip(prepared, taught.selections, strict=True)
    ], taught


@pytest.mark.parametrize("training", [True, False])
def test_gold_and_retriever(tmp_path, start, training):
    expected = [["0-0"], ["1-0", "1-2"], ["2-2"]]
    gold, taught = taught_ids(tmp_path, start, training=training)
    assert gold == expected
    shown = [[passage["id"] for passage in row["candidates"]] for row in taught.dataset]
    assert any(ids != sorted(ids) for ids in shown) == training  # Shuffled for training alone.
    retrieved, _ = taught_ids(tmp_path, start, training=training, teacher="retriever", num_selected=3)
    assert retrieved == [[f"{b}-0", f"{b}-1", f"{b}-2"] for b in range(3)]


def test_likelihood_is_the_order_of_the_evaluation(tmp_path, start):
    found, taught = taught_ids(tmp_path, start, teacher="likelihood", num_selected=4)
    tokenizer, model = tiny_tokenizer(), tiny_model("llama", tiny_tokenizer())
    pipeline = RAGPipeline(model, model, PlackettLucePolicy(tokenizer, 4), tokenizer)
    expected = likelihood_order(Task(pipeline, rows_of(), ranks=[]))
    assert found == [[f"{b}-{i}" for i in order] for b, order in enumerate(expected)]
    assert taught.left_out == {}


def test_a_run_file(tmp_path, start):
    """Of the passages that it ranks, those among the candidates; a question of which it ranks none is left out."""
    ranked = {"q0": {"0-3": 9, "0-1": 7, "0-2": 8}, "q1": {"elsewhere": 9, "1-1": 1}, "q2": {"elsewhere": 1}}
    path = tmp_path / "rankzephyr.run.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f"{q} Q0 {id} 1 {s} t\n" for q, scores in ranked.items() for id, s in scores.items())
    found, taught = taught_ids(tmp_path, start, teacher="run", teacher_run=str(path))
    assert found == [["0-3", "0-2"], ["1-1"]]
    assert taught.left_out == {"no candidate ranked by the teacher": 1}


def test_what_a_teacher_lacks(tmp_path, start):
    path = tmp_path / "some.run"
    path.write_text("q1 Q0 1-1 1 2.0 t\n")
    by_run = {"teacher": "run", "teacher_run": str(path)}
    with pytest.raises(ValueError, match=r"no ranking for 2 of 3 questions of train_dataset \('q0', 'q2'\); rank"):
        taught_ids(tmp_path, start, **by_run)
    with pytest.raises(ValueError, match="its column 'id', which is missing"):
        taught_ids(tmp_path, start, tiny_questions(4), **by_run)
    with pytest.raises(FileNotFoundError, match="no run file nowhere.run"):
        taught_ids(tmp_path, start, teacher="run", teacher_run="nowhere.run")
    without = [{name: value for name, value in row.items() if name != "gold_ids"} for row in rows_of()]
    for rows in (
        without,
        [{**row, "gold_ids": None} for row in without],
        [{**row, "gold_ids": []} for row in without],
    ):
        with pytest.raises(ValueError, match="train_dataset: teacher='gold' needs gold_ids, and no row has any"):
            taught_ids(tmp_path, start, rows)
    with pytest.raises(ValueError, match=r"no question is left to learn from \(\{'no gold passage .*: 3\}\)"):
        taught_ids(tmp_path, start, [{**row, "gold_ids": ["elsewhere"]} for row in without])
    with pytest.raises(ValueError, match="found 4 passages, fewer than num_selected=5"):
        taught_ids(tmp_path, start, num_selected=5)


def test_what_is_not_answerable_is_counted(tmp_path, start):
    rows = rows_of()
    rows[2]["answers"] = ["Nobody"]
    _, taught = taught_ids(tmp_path, start, rows, answerable_only=True)
    assert taught.left_out == {"not answerable (answerable_only)": 1}
