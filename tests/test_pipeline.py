"""A trained pair in use: retrieve, select, answer."""

import io
import json
import shutil

import pytest
import torch
from rich.console import Console

from dro_trl import PlackettLucePolicy, RAGPipeline, Retriever
from dro_trl.cli.ask import print_output
from dro_trl.lm.fitting import cut_passages
from dro_trl.lm.generation import generate_answers
from dro_trl.pipeline import RAGOutput
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import LORA, make_trainer, save_start

ROWS = tiny_questions(4, 9, 6, 4, 12)


class FirstRows(Retriever):
    """Finds the candidates of the first questions above."""

    asked: list[int] = []

    def retrieve(self, questions, k):
        self.asked.append(k)
        return [next(row["candidates"] for row in ROWS if row["question"] == q)[:k] for q in questions]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a pair with two tokenizers, and its trainer."""
    folder = tmp_path_factory.mktemp("pair")
    chat = tiny_tokenizer(chat=True)
    tiny_model("llama", chat, seed=3).save_pretrained(folder / "b")
    chat.save_pretrained(folder / "b")
    trainer = make_trainer(
        folder / "out",
        model=save_start(folder / "a"),
        generator_name_or_path=str(folder / "b"),
        learning_rate=1e-2,
        max_passage_tokens=6,
        num_candidates=9,
        peft_config=LORA,
    )
    trainer.train()
    trainer.save_model()
    return folder / "out", trainer


@pytest.fixture(scope="module")
def pipeline(trained):
    return RAGPipeline.from_pretrained(trained[0], retriever=FirstRows(), dtype="float32")


def test_a_trainers_pair_answers_as_the_saved_one_does(trained, pipeline):
    question = ROWS[1]["question"]
    held = RAGPipeline.from_trainer(trained[1], FirstRows())
    output = held(question)
    assert output == pipeline(question)
    assert FirstRows.asked[-2:] == [9, 9]
    shown = str(output).splitlines()
    assert shown[:2] == [question, f"Answer: {output.answer}"]
    assert [line.split()[0] for line in shown[2:]] == [f"{score:.2f}" for score in output.scores]
    assert all(passage["text"] in line for passage, line in zip(output.passages, shown[2:], strict=True))


def test_more_passages_can_be_selected_than_in_training(trained, pipeline):
    wider = RAGPipeline.from_pretrained(trained[0], num_selected=4, dtype="float32").predict(ROWS, max_new_tokens=1)
    for few, many in zip(pipeline.predict(ROWS, max_new_tokens=1), wider, strict=True):
        assert len(many.passages) == 4
        assert many.passages[:2] == few.passages
    policy = PlackettLucePolicy(tiny_tokenizer(), num_selected=2)
    with pytest.raises(ValueError, match="num_selected=4 and a policy of num_selected=2: give one of them"):
        RAGPipeline.from_pretrained(trained[0], policy=policy, num_selected=4)


def read(passages):
    """What models read of passages: of two that are cut to the same words, rounding alone says which comes first."""
    return [(passage["title"], passage["text"]) for passage in passages]


def test_a_saved_pair_selects_and_answers_as_the_trainer_would(trained, pipeline):
    model, tokenizers = trained[1].model.eval(), trained[1].tokenizers
    cut, number = cut_passages(ROWS, tokenizers["generator"], 6)
    assert number > 0
    policy = model.policy
    with torch.no_grad():
        expected = [policy.best(model.selector, policy.encode([row])) for row in cut]
    outputs = pipeline.predict(ROWS, max_new_tokens=5)
    for row, (selection, scores), output in zip(cut, expected, outputs, strict=True):
        assert output.question == row["question"]
        assert read(output.passages) == read([row["candidates"][i] for i in selection[0].tolist()])
        assert output.scores == pytest.approx(scores[0].tolist(), abs=1e-4)
        (answer,) = generate_answers(
            model.generator, tokenizers["generator"], [row["question"]], [output.passages], max_new_tokens=5
        )
        assert output.answer == answer
    assert any(output.answer for output in outputs)


@pytest.mark.parametrize("order", ["selector", "retriever"])
def test_the_size_of_the_batch_does_not_matter(pipeline, order):
    one = pipeline.predict(ROWS, order=order, batch_size=1, max_new_tokens=6)
    all_at_once = pipeline.predict(ROWS, order=order, batch_size=5, max_new_tokens=6)
    for a, b in zip(one, all_at_once, strict=True):
        assert (a.question, a.answer, read(a.passages)) == (b.question, b.answer, read(b.passages))
        assert a.scores == pytest.approx(b.scores, abs=1e-4)


def test_the_retrievers_order_is_its_first_k(pipeline):
    outputs = pipeline.predict(ROWS, order="retriever", max_new_tokens=1)
    assert [[p["id"] for p in output.passages] for output in outputs] == [
        [p["id"] for p in row["candidates"][:2]] for row in ROWS
    ]
    assert all(output.scores == [10.0, 9.0] for output in outputs)


def test_a_bare_question_is_retrieved_for(pipeline):
    FirstRows.asked.clear()
    output = pipeline(ROWS[4]["question"])
    assert FirstRows.asked == [9]
    (expected,) = pipeline.predict([{**ROWS[4], "candidates": ROWS[4]["candidates"][:9]}])
    assert output == expected
    with pytest.raises(ValueError, match="the question is empty"):
        pipeline("  ")


def test_several_questions_are_answered_at_once(pipeline):
    questions = [row["question"] for row in ROWS]
    together = pipeline(questions, batch_size=2, max_new_tokens=3)
    assert [output.question for output in together] == questions
    for question, output in zip(questions, together, strict=True):
        alone = pipeline(question, max_new_tokens=3)
        assert (alone.answer, alone.passages) == (output.answer, output.passages)
    assert pipeline([]) == []
    with pytest.raises(ValueError, match="question 2 of 2 is empty"):
        pipeline([questions[0], ""])


def test_without_a_retriever_a_bare_question_cannot_be_asked(trained):
    pipeline = RAGPipeline.from_pretrained(trained[0], num_candidates=3)
    assert pipeline.num_candidates == 3
    with pytest.raises(ValueError, match="needs a retriever; pass retriever="):
        pipeline("Who?")


@pytest.mark.parametrize("order", ["selector", "retriever"])
def test_too_few_candidates_are_told(pipeline, order):
    with pytest.raises(ValueError, match="has 1 candidates, fewer than num_selected=2"):
        pipeline.predict([ROWS[0], tiny_questions(1)[0]], order=order)


def test_the_start_is_the_pair_before_training(trained):
    start = RAGPipeline.from_start(trained[0], dtype="float32")
    assert start.selector.config.vocab_size != start.generator.config.vocab_size
    ids = tiny_tokenizer()("Who?", return_tensors="pt").input_ids
    with torch.no_grad():
        for model, expected in (
            (start.selector, tiny_model("llama", tiny_tokenizer())),
            (start.generator, tiny_model("llama", tiny_tokenizer(chat=True), seed=3)),
        ):
            torch.testing.assert_close(model(ids).logits, expected(ids).logits)


def test_a_start_in_memory_cannot_be_loaded(tmp_path):
    make_trainer(tmp_path).save_model()
    with pytest.raises(ValueError, match=r"trained from models in memory.*--no_start"):
        RAGPipeline.from_start(tmp_path)


def test_a_start_that_is_gone_is_named_with_the_way_round_it(trained, tmp_path):
    pair = tmp_path / "pair"
    shutil.copytree(trained[0], pair)
    config = json.loads((pair / "dro_config.json").read_text())
    config["start"]["selector"] = "../gone"
    (pair / "dro_config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"dro_config.json: the selector started from .*/gone, .*--no_start"):
        RAGPipeline.from_start(pair)


def test_a_policy_object_must_be_given_again(tmp_path):
    policy = PlackettLucePolicy(tiny_tokenizer(), 2)
    make_trainer(tmp_path, policy=policy).save_model()
    with pytest.raises(ValueError, match="trained with a policy object; pass policy="):
        RAGPipeline.from_pretrained(tmp_path)
    assert RAGPipeline.from_pretrained(tmp_path, policy=policy).policy is policy


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the output_dir of a DROTrainer run"):
        RAGPipeline.from_pretrained(tmp_path)


def test_printing_shows_text_as_it_is():
    stream = io.StringIO()
    passages = [{"id": "1", "title": "[red]T[/red]", "text": "one [/] two", "score": 1.0}]
    print_output(RAGOutput("who [x]?", "[/b]", passages, [0.126]), Console(file=stream, width=100))
    text = stream.getvalue()
    assert "who [x]?" in text
    assert "[/b]" in text
    assert "0.13" in text
    assert "[red]T[/red]: one [/] two" in text
