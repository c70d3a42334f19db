"""Which questions and passages a trainer takes, and what it refuses."""

import logging

import pytest
from datasets import Dataset

from dro_trl import Retriever
from dro_trl.lm import encoding
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer
from tests.helpers.training import (
    logged,
    make_trainer,
    questions,
)


class ByTitle(Retriever):
    """Finds the passages of a small corpus, in an order that depends on the question."""

    def retrieve(self, questions, k):
        return [
            [
                {"id": f"{len(q)}-{i}", "title": f"t{i}", "text": f"passage {i} for {q}", "score": float(-i)}
                for i in range(k)
            ]
            for q in questions
        ]


def test_a_retriever_finds_candidates_where_there_are_none(tmp_path):
    bare = questions().remove_columns(["candidates", "gold_ids"])
    trainer = make_trainer(
        tmp_path,
        train_dataset=bare,
        eval_dataset=questions(),
        retriever=ByTitle(),
        num_candidates=3,
        shuffle_candidates=False,
    )
    for row, original in zip(trainer.train_dataset, bare, strict=True):
        assert [p["text"] for p in row["candidates"]] == [f"passage {i} for {original['question']}" for i in range(3)]
    assert trainer.eval_dataset.to_list() == questions().to_list()
    trainer.train()
    assert len(logged(trainer, "reward")) == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (questions().remove_columns("candidates"), "train_dataset.*candidates"),
        (
            Dataset.from_list([*tiny_questions(4, 5), *tiny_questions(1)]),
            "train_dataset, row 3: field 'candidates': found 1 passages, fewer than num_selected=2; retrieve more",
        ),
        (
            Dataset.from_list([{**tiny_questions(4)[0], "answers": []}, *tiny_questions(4)]),
            "train_dataset, row 1.*answers",
        ),
    ],
    ids=["no candidates", "too few candidates", "no answer"],
)
def test_a_faulty_dataset_is_refused_at_once(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, train_dataset=dataset)
    with pytest.raises(ValueError, match=message.replace("train_", "eval_")):
        make_trainer(tmp_path, eval_dataset=dataset)


def test_long_passages_are_cut_and_counted(tmp_path, caplog):
    rows = tiny_questions(3, 3)
    rows[0]["candidates"][1]["text"] = "Oslo"
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(
            tmp_path, train_dataset=Dataset.from_list(rows), max_passage_tokens=5, shuffle_candidates=False
        )
    assert "train_dataset: 5 of 6 passages cut to max_passage_tokens=5" in caplog.text
    texts = [p["text"] for row in trainer.train_dataset for p in row["candidates"]]
    assert texts[1] == "Oslo"
    originals = [p["text"] for row in rows for p in row["candidates"]]
    assert all(original.startswith(text) for text, original in zip(texts, originals, strict=True))
    stem, *ids = encoding.encode_all(tiny_tokenizer(), [":", *(f": {text}" for text in texts)])
    assert max(len(tokens) - len(stem) for tokens in ids) == 5
    assert trainer.train_dataset[1]["gold_ids"] == rows[1]["gold_ids"]


ANSWERED = {"id": "x", "title": "Founders", "text": "It was founded by ADA OSLO, a baker.", "score": 0.0}


@pytest.mark.parametrize(
    ("fields", "answerable"),
    [
        ({}, True),
        ({"answers": ["Ada Oslo", "nobody"]}, True),
        ({"answers": ["Oslo"]}, False),  # in the question
        ({"answers": ["Ada Osl"]}, False),  # half a word
        ({"answers": ["yes"], "question": "Is it a club? "}, False),
        ({"answers": ["Ada Quito"]}, False),
        ({"answers": ["Founders"]}, True),  # a title
        ({"answers": ["the"]}, False),  # in the question
    ],
)
def test_answerable_questions(tmp_path, caplog, fields, answerable):
    """What is left out is counted; where it would be most rows, they are pointed out even if they stay."""
    other = {**tiny_questions(4)[0], "answers": ["elsewhere"]}
    row = {**tiny_questions(4)[0], "answers": ["Ada Oslo"], **fields}
    row["candidates"] = [{**p, "text": "yes, " + p["text"].partition(" founded")[0]} for p in row["candidates"]]
    row["candidates"][2] = ANSWERED
    rows = Dataset.from_list([row, other, other])
    with caplog.at_level(logging.WARNING):
        assert len(make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows).train_dataset) == 3
        found = f"and not in the question, in {int(answerable)} of 3 rows"
        assert f"{found}; in the others its likelihood says little" in caplog.text
        if not answerable:
            with pytest.raises(
                ValueError, match=f"train_dataset: .* {found}, and answerable_only=True leaves nothing"
            ):
                make_trainer(tmp_path, train_dataset=rows, answerable_only=True)
            return
        trainer = make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows, answerable_only=True)
    assert [r["answers"] for r in trainer.train_dataset] == [row["answers"]]
    assert len(trainer.eval_dataset) == 3
    assert "the other 2 are left out (answerable_only=True)" in caplog.text


def test_the_retrievers_order_is_hidden_from_training_alone(tmp_path):
    def order(rows):
        return [[p["id"] for p in row["candidates"]] for row in rows]

    rows = Dataset.from_list(tiny_questions(6, 6, 6, 6, 6, 6))
    one, same, other = (
        make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows, seed=seed, shuffle_candidates=True)
        for seed in (1, 1, 2)
    )
    assert order(one.train_dataset) == order(same.train_dataset) != order(other.train_dataset)
    assert sum(a != b for a, b in zip(order(one.train_dataset), order(rows), strict=True)) >= 4
    assert len({tuple(i.partition("-")[2] for i in ids) for ids in order(one.train_dataset)}) >= 4
    assert list(map(sorted, order(one.train_dataset))) == order(rows) == order(one.eval_dataset)
    kept = make_trainer(tmp_path, train_dataset=rows, shuffle_candidates=False)
    assert order(kept.train_dataset) == order(rows)


def test_repeated_visits_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, per_device_train_batch_size=4).get_train_dataloader()
    assert "6 questions do not fill 2 estimation steps of 4 questions: 2 visits" in caplog.text


def test_training_needs_a_dataset(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train_dataset = None
    with pytest.raises(ValueError, match="training needs a train_dataset"):
        trainer.train()
