"""Raw rows of a dataset on the hub."""

from collections.abc import Iterator

from datasets import load_dataset


def read_hub(name: str, config: str | None, split: str) -> Iterator[tuple[int, object]]:
    """Yield the rows of a dataset on the hub, as `SourceFormat.read` yields those of a file.

    Args:
        name: Such as `hotpotqa/hotpot_qa`.
        config: Such as `distractor`.
        split: Such as `validation`.

    Raises:
        FileNotFoundError: There is no such dataset, or the hub cannot be reached.
    """
    try:
        dataset = load_dataset(name, config, split=split)
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no such dataset could be had from the hub: {error}"
        ) from error
    yield from enumerate(dataset, start=1)
