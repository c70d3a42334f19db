"""The public datasets that can be converted."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dro_trl.data.formats.base import SourceFormat


class PublicDataset(StrEnum):
    """The formats that can be converted."""

    hotpotqa = "hotpotqa"
    wikimultihopqa = "2wikimultihopqa"
    musique = "musique"
    natural_questions = "natural_questions"
    wizard_of_wikipedia = "wizard_of_wikipedia"
    kilt = "kilt"
    flashrag = "flashrag"
    beir = "beir"
    with_passages = "with_passages"


def source_format(dataset: PublicDataset) -> "SourceFormat":
    """Return how a dataset is read."""
    from dro_trl.data.formats import beir, flashrag, hotpotqa, kilt, musique, natural_questions, with_passages
    from dro_trl.data.formats import wizard_of_wikipedia as wizard

    return {
        PublicDataset.hotpotqa: hotpotqa.FORMAT,
        PublicDataset.wikimultihopqa: hotpotqa.FORMAT,
        PublicDataset.musique: musique.FORMAT,
        PublicDataset.natural_questions: natural_questions.FORMAT,
        PublicDataset.wizard_of_wikipedia: wizard.FORMAT,
        PublicDataset.kilt: kilt.FORMAT,
        PublicDataset.flashrag: flashrag.FORMAT,
        PublicDataset.beir: beir.FORMAT,
        PublicDataset.with_passages: with_passages.FORMAT,
    }[dataset]


def raw_rows(source: "SourceFormat", input: str, config: str | None, split: str) -> Iterator[tuple[int, Any]]:
    """Yield the raw rows of a file, or of a dataset on the hub where there is no file and it is named like one."""
    from dro_trl.data.formats.hub import read_hub

    path = Path(input)
    is_hub_name = not path.exists() and not path.suffix and input.count("/") <= 1
    return read_hub(input, config, split) if is_hub_name else source.read(path)
