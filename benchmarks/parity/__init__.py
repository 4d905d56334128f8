"""The parity command: `python -m benchmarks.parity`. `CASES` holds all cases, `compare` runs one.

setup.py       how a case is made; shared data and models
models.py ...  the cases, a module for each theme
comparison.py  trains a case both ways and compares
table.py       PARITY.md from the results of several runs
"""

from benchmarks.parity import inputs, models, weights, options, optimizers, callbacks, files, overrides, calls, noise  # noqa: F401, I001
from benchmarks.parity import strategies, cluster  # noqa: F401
from benchmarks.parity.comparison import Row, compare
from benchmarks.parity.setup import CASES, Case

__all__ = ["CASES", "Case", "Row", "compare"]
