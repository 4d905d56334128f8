"""The parity command: `python -m benchmarks.parity`. `CASES` holds all cases, `compare` runs one.

setup.py       how a case is made; shared data and models
models.py ...  the cases, a module for each theme
kinds.py       all activations, layers, optimizers, losses and metrics, several in one model
comparison.py  trains a case both ways and compares
setting.py     oneDNN's two settings
table.py       PARITY.md from the results of several runs
"""

from benchmarks.parity import inputs, models, weights, options, optimizers, callbacks, files, overrides, calls, noise  # noqa: F401, I001
from benchmarks.parity import strategies, cluster  # noqa: F401
from benchmarks.parity.comparison import Row, compare
from benchmarks.parity.setup import CASES, Case

# Themes of cases in which what is computed is the feature, and not how fit is called, fed, watched or spread.
ABOUT_KERNELS = {
    "Kinds of model",
    "Optimizers and precision",
    "Sample weights, class weights, losses and metrics",
    "The gradient noise measured at each step, which must not change a bit",
}

__all__ = ["ABOUT_KERNELS", "CASES", "Case", "Row", "compare"]
