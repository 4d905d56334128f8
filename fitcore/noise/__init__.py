"""Gradient noise, measured at every step beside the training that it leaves untouched.

config.py       what to measure
statistics.py   unbiased estimates, running ratios and their intervals, from recorded squared norms
watch.py        notes a forward pass: which layer was called on what, where each weight was used
plan.py         how each weight is measured
calls.py        what is noted of a call; rules, and how to add one
rules.py, convolutions.py, recurrent.py   the rules for Keras's layers
fallback.py     any other layer, row by row, vectorized
losses.py       how a loss is reduced over rows, and its regularization
split.py        anything at all, by passes over micro-batches
factors.py      per-example gradients of one weight, and their squared norms
examples.py     their sums over a batch, of all rows or of some
together.py     the same of many small weights at once
probe.py        puts it together inside the step
over_replicas.py   the same over several replicas of a tf.distribute strategy
evidence.py     the evidence-based stopping criterion
results.py      what `history.noise` is
plot.py         a picture, with matplotlib
"""

from fitcore.noise import convolutions, recurrent, rules  # noqa: F401
from fitcore.noise.calls import per_example
from fitcore.noise.config import GradientNoise
from fitcore.noise.plot import plot
from fitcore.noise.probe import NOISE_TOTALS, Probe
from fitcore.noise.results import NoiseCurves

__all__ = ["NOISE_TOTALS", "GradientNoise", "NoiseCurves", "Probe", "per_example", "plot"]
