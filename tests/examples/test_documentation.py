"""The documentation's examples: each is there, and has a test of its own."""

import re
from pathlib import Path

from tests.examples.conftest import EXAMPLES

DOCS = EXAMPLES.parent / "docs"
TEXT = (DOCS / "extending.md").read_text(encoding="utf-8")


def test_every_example_is_there_and_tested():
    names = set(re.findall(r"examples/(\w+)\.py", TEXT))
    assert len(names) >= 7
    assert all((EXAMPLES / f"{name}.py").is_file() for name in names)
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")} - {"documentation"}
    assert names <= tested
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert tested <= set(re.findall(r"examples/(\w+)\.py", pages))


def test_the_rewards_code_is_the_examples():
    (code,) = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)
    body = code.partition("    return [")[2]
    assert body in (EXAMPLES / "custom_reward.py").read_text(encoding="utf-8")
