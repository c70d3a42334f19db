"""The routes of a server: rank passages, answer questions."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Hashable
from dataclasses import asdict
from traceback import walk_tb
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

import dro_trl
from dro_trl.pipeline import RAGPipeline
from dro_trl.selector import RankedDocument, Selector
from dro_trl.serving.batching import Batcher, BusyError
from dro_trl.serving.bodies import AnswerRequest, RankRequest, RerankRequest, plain
from dro_trl.serving.limits import BodyLimit, Limits, refused
from dro_trl.types import Question


def create_app(
    selector: Selector,
    pipeline: RAGPipeline | None = None,
    name: str = "dro-trl",
    limits: Limits | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 32,
) -> FastAPI:
    """Return an application that ranks with a selector, and answers with its pair.

    Args:
        selector: The selector.
        pipeline: The pair that it is of; nothing is answered where None. It finds passages by its retriever, if any.
        name: What the server calls the pair.
        limits: How much a request may hold.
        batch_size: Questions that the models read at once.
        max_new_tokens: Longest answer where a request does not say.
    """
    limits = limits or Limits()

    def run(key: Hashable, items: list[Any]) -> list[Any]:
        assert isinstance(key, tuple)
        if key[0] == "rank":
            questions, lists = [row["question"] for row in items], [row["candidates"] for row in items]
            return selector.rank(questions, lists, key[1], batch_size=batch_size)
        assert pipeline is not None
        rows = _with_candidates(pipeline, items)
        return pipeline.predict(rows, batch_size=batch_size, max_new_tokens=key[1])

    batcher = Batcher(run, 4 * batch_size, limits.waiting)

    @contextlib.asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(title="dro-trl", version=dro_trl.__version__, lifespan=working)
    app.add_middleware(BodyLimit, max_bytes=limits.body_bytes)
    _say_errors(app)
    _add_ranking(app, batcher, selector, limits, name)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        answers, retrieves = pipeline is not None, pipeline is not None and pipeline.retriever is not None
        found = {"status": "ok", "model": name, "version": dro_trl.__version__, "waiting": batcher.waiting}
        return {**found, "answers": answers, "retrieves": retrieves}

    @app.post("/answer")
    async def answer(body: AnswerRequest) -> dict[str, Any]:
        if pipeline is None:
            raise refused("this server has no generator; start it without --selector_only", 404)
        passages, longest = plain(body.passages or []), body.max_new_tokens or max_new_tokens
        limits.check(body.question, passages, "passages", longest)
        if body.passages is None and pipeline.retriever is None:
            raise refused("passages: none are given, and this server has no index to find them in (--index_dir)")
        question = Question(question=body.question, answers=[], candidates=[])
        if body.passages is not None:
            question = selector.question(body.question, passages, "passages")
        elif not body.question.strip():
            raise refused("question: found empty text; ask one")
        return asdict(await batcher.submit(("answer", longest), (question, body.passages is None)))

    return app


def _with_candidates(pipeline: RAGPipeline, items: list[tuple[Question, bool]]) -> list[Question]:
    """Return questions with candidates: found for those that came without."""
    bare = [row["question"] for row, wanted in items if wanted]
    found = iter(pipeline.retriever.retrieve(bare, pipeline.num_candidates) if bare and pipeline.retriever else [])
    return [Question(**{**row, "candidates": next(found)}) if wanted else row for row, wanted in items]


def _add_ranking(app: FastAPI, batcher: Batcher, selector: Selector, limits: Limits, name: str) -> None:
    async def ranked(query: str, documents: list[Any], top_k: int | None) -> list[RankedDocument]:
        limits.check(query, documents, "documents")
        found: list[RankedDocument] = await batcher.submit(("rank", top_k), selector.question(query, documents))
        return found

    def text_of(document: Any) -> str:
        return str(document if isinstance(document, str) else document["text"])

    @app.post("/rank")
    async def rank(body: RankRequest) -> dict[str, Any]:
        documents = plain(body.documents)
        found: list[Any] = [{**one} for one in await ranked(body.query, documents, body.top_k)]
        for one in found if body.return_documents else ():
            one["text"] = text_of(documents[one["corpus_id"]])
        return {"results": found}

    @app.post("/v1/rerank")
    @app.post("/v2/rerank")
    async def rerank(body: RerankRequest) -> dict[str, Any]:
        documents, results = plain(body.documents), []
        for one in await ranked(body.query, documents, body.top_n):
            shown = {"document": {"text": text_of(documents[one["corpus_id"]])}} if body.return_documents else {}
            results.append({"index": one["corpus_id"], "relevance_score": one["score"], **shown})
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": name, "results": results}


def _say_errors(app: FastAPI) -> None:
    """Answer what is refused with one line, `{"detail": …}`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in error.errors()]
        return JSONResponse({"detail": "; ".join(faults[:3])}, 422)

    @app.exception_handler(ValueError)
    async def unreadable(request: Request, error: ValueError) -> JSONResponse:
        *_, (frame, _) = walk_tb(error.__traceback__)
        if str(frame.f_globals["__name__"]).partition(".")[0] != __name__.partition(".")[0]:
            raise error  # Of a library: a defect, whose traceback helps.
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})
