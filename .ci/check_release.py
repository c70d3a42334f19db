"""Hold a tag against the version, the changelog and the citation, and print the version's changes.

python .ci/check_release.py v0.1.0 > notes.md
"""

import re
import sys
import tomllib
from pathlib import Path


def changes_of(tag: str, root: Path) -> str:
    """Return what the changelog says of a tag's version.

    Args:
        tag: `v` and a version, as in `v0.1.0`.
        root: The checkout.

    Raises:
        ValueError: If the tag is not that of the version in `pyproject.toml`, or the changelog or the citation is of
            another one, or of another day than each other.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(
            f"the tag is {tag}, the version in pyproject.toml {version}: tag v{version}, or set the version"
        )
    first = re.search(
        r"^## (.*)\n((?:(?!## ).*\n)*)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    heading = re.fullmatch(rf"{re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)", first[1]) if first else None
    if first is None or heading is None:
        found = first[1] if first else "nothing"
        raise ValueError(f"CHANGELOG.md begins with {found!r}: give it the heading '## {version} (YYYY-MM-DD)'")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    for line in (f"version: {version}", f"date-released: {heading[1]}"):
        if line not in citation.splitlines():
            raise ValueError(f"CITATION.cff has no line '{line}', which pyproject.toml and CHANGELOG.md say")
    return first[2].strip() + "\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(changes_of(sys.argv[1], Path(__file__).resolve().parents[1]))
    except ValueError as error:
        sys.exit(str(error))
