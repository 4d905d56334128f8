"""Bad calls, made by Keras and by fitcore: `python -m benchmarks.bad_calls`. `CALLS` holds them all, by theme.

setup.py          how a bad call is written down; shared data and models
arguments.py ...  the calls, a module for each theme
comparison.py     makes a call both ways and judges what is raised
table.py          their section of PARITY.md from the results of several runs
"""

from benchmarks.bad_calls import arguments, data, evaluation, models, on_batch, under_way
from benchmarks.bad_calls.comparison import Row, compare
from benchmarks.bad_calls.setup import Bad

CALLS: dict[str, list[Bad]] = {
    (module.__doc__ or "").splitlines()[0].rstrip("."): module.CALLS
    for module in (arguments, data, models, under_way, evaluation, on_batch)
}

__all__ = ["CALLS", "Bad", "Row", "compare"]
