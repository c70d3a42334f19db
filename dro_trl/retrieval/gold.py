"""Gold passages among the candidates of a question: which are, which are missing, and how they come in."""

from enum import StrEnum
from typing import Any

from dro_trl.types import Passage


class AnswerMatch(StrEnum):
    """When a candidate holds an answer."""

    dpr = "dpr"
    extended = "extended"


def mark_answers(row: dict[str, Any], match: AnswerMatch) -> bool:
    """Let a row that names no gold passages name its candidates that hold an answer.

    By `dpr` this is the proxy by which retrieval for open-domain answers is judged (Karpukhin et al., 2020):
    the text alone counts, and a passage may hold the answer by chance.

    Returns:
        Whether it names any now and did not before.
    """
    from dro_trl.metrics import has_answer, mentions_answer

    answers = row.get("answers")
    if row.get("gold_ids") or not answers:
        return False
    row["gold_ids"] = [
        passage["id"]
        for passage in row["candidates"]
        if (
            has_answer(passage["text"], answers)
            if match is AnswerMatch.dpr
            else mentions_answer(passage["title"], answers) or mentions_answer(passage["text"], answers)
        )
    ]
    return bool(row["gold_ids"])


def without(passages: list[Passage], ids: set[str]) -> list[Passage]:
    """Return the passages whose ids are not among `ids`."""
    return [passage for passage in passages if passage["id"] not in ids]


def missed_gold(row: dict[str, Any], hits: list[Passage]) -> list[str]:
    """Return the ids of a row's gold passages that are not among the hits, each once."""
    found = {passage["id"] for passage in hits}
    return [id for id in dict.fromkeys(row.get("gold_ids") or []) if id not in found]


def with_gold(hits: list[Passage], gold: list[Passage], gold_ids: list[str], k: int) -> list[Passage]:
    """Return at most `k` passages, the gold ones among them: the last hits that are not gold make room.

    Args:
        hits: What the retriever found, best first.
        gold: Gold passages that it did not find; they follow the hits, with the score of the last.
        gold_ids: Those of all gold passages.
        k: Passages wanted. Where more are gold, all of those.
    """
    spare = [number for number, passage in enumerate(hits) if passage["id"] not in gold_ids]
    excess = max(0, len(hits) + len(gold) - k)
    dropped = set(spare[::-1][:excess])
    kept = [passage for number, passage in enumerate(hits) if number not in dropped]
    score = hits[-1]["score"] if hits else 0.0
    return [*kept, *(Passage(**{**passage, "score": score}) for passage in gold)]
