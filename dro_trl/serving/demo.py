"""A page to look at a pair: a question, its candidates in the orders before and after training, both answers."""

from html import escape
from typing import Any

import gradio

from dro_trl.lm.prompts import passage_text
from dro_trl.pipeline import RAGPipeline
from dro_trl.types import Question

COLUMNS = ("retriever", "before", "after", "score after", "passage")
"""Of the table: ranks by the retriever and by both selectors, from 1, those that the generator reads in brackets."""


def create_demo(trained: RAGPipeline, start: RAGPipeline | None, name: str, max_new_tokens: int = 32) -> Any:
    """Return a page that asks a pair, and the one that it started from.

    Args:
        trained: The pair, with a retriever.
        start: What it started from; the page shows the trained one alone where None.
        name: What the page calls the pair.
        max_new_tokens: Longest answer, in tokens.
    """
    headers = [column for column in COLUMNS if start is not None or column != "before"]

    def ask(question: str) -> tuple[str, str, str]:
        try:
            before, after, rows = compare(trained, start, question, max_new_tokens)
        except ValueError as error:
            raise gradio.Error(str(error)) from error
        return before, after, as_table(headers, rows)

    with gradio.Blocks(title=f"dro-trl: {name}", analytics_enabled=False) as page:
        gradio.Markdown(f"# {name}\nWhich passages the selector chooses, and what the generator answers from them.")
        question = gradio.Textbox(label="Question", elem_id="question", autofocus=True)
        button = gradio.Button("Ask", variant="primary", elem_id="ask")
        with gradio.Row():
            before = gradio.Textbox(label="Answer before training", elem_id="before", visible=start is not None)
            after = gradio.Textbox(label="Answer after training", elem_id="after")
        table = gradio.HTML(elem_id="candidates")
        gradio.on([question.submit, button.click], ask, question, [before, after, table])
    return page


def as_table(headers: list[str], rows: list[list[str]]) -> str:
    """Return rows as a table of HTML, in which texts stand as they are."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def compare(
    trained: RAGPipeline, start: RAGPipeline | None, question: str, max_new_tokens: int
) -> tuple[str, str, list[list[str]]]:
    """Return the answers before and after training, and a row of the table for each candidate, best first.

    Raises:
        ValueError: If the question is empty, or too few passages are found for it.
    """
    if trained.retriever is None or not question.strip():
        raise ValueError("the question is empty; ask one")
    [candidates] = trained.retriever.retrieve([question], trained.num_candidates)
    row = Question(question=question, answers=[], candidates=candidates)
    answers, columns = [], []
    for pipeline in (start, trained):
        if pipeline is None:
            answers.append("")
            continue
        answers.append(pipeline.predict([row], max_new_tokens=max_new_tokens)[0].answer)
        ranked = pipeline.ranker.rank(question, candidates)
        read = pipeline.policy.num_selected
        columns.append(
            {one["corpus_id"]: (f"[{i}]" if i <= read else str(i)) for i, one in enumerate(ranked, start=1)}
        )
    rows = [
        [
            str(one["corpus_id"] + 1),
            *(ranks[one["corpus_id"]] for ranks in columns),
            f"{one['score']:.2f}",
            passage_text(candidates[one["corpus_id"]]),
        ]
        for one in ranked
    ]
    return answers[0], answers[1], rows
