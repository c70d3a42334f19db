"""The benchmarks find each other as scripts of one folder do."""

import sys

from tests.examples.conftest import EXAMPLES

sys.path.append(str(EXAMPLES / "benchmarks"))
