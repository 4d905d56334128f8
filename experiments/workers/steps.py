"""Steps to a target against the batch size: measured by training, and predicted from the noise scale at one batch size.

The trainings are those of experiments.noise_scale. A batch needs as many steps on whatever number of workers: they sum their
parts' gradients, so that one worker that trains on whole batches stands for any number of them here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.claims.statistics import Effect, mean_of
from experiments.noise_scale import Training
from experiments.workers.model import Steps

Array = np.ndarray[Any, np.dtype[np.float64]]


def noise_of_pieces(training: Training, batch: int, rate: float, steps: Sequence[float], first_seed: int) -> Array:
    """tr(Sigma) and |G|^2 in the parts of a training one after the other, for each seed: [seeds, parts, 2].

    Args:
      steps: how many the training from each seed takes.
    """
    found = []
    for i, count in enumerate(steps):
        _, pieces = training.noise(batch, rate, first_seed + i, max(int(count), 10))
        found.append([[float(piece.numerator), float(piece.denominator)] for piece in pieces])
    return np.array(found)


def noise_scale(pieces: Array) -> float:
    """B_noise of `noise_of_pieces`: in each part of the training the ratio of averages over seeds, then the parts' mean.

    Infinite, which is to say undetermined, where |G|^2 of a part doesn't come out above zero.
    """
    trace, grad_norm_sq = pieces.mean(axis=0).T
    if (grad_norm_sq <= 0).any():
        return math.inf
    return float(np.mean(trace / grad_norm_sq))


def jackknife(estimate: Callable[[list[int]], float], seeds: int) -> Effect:
    """An estimate of something positive from several seeds, with Student's interval on the logarithm of the pseudo-values
    (Tukey 1958); unbounded where an estimate without one of the seeds is not positive.

    Args:
      estimate: given the numbers of some seeds, 0 ... seeds - 1, the estimate from these.
    """
    everyone = list(range(seeds))
    whole = estimate(everyone)
    without = [estimate([i for i in everyone if i != left]) for left in everyone]
    if not all(math.isfinite(value) and value > 0 for value in (whole, *without)):
        return Effect(whole, -math.inf, math.inf, seeds, "times", tuple(without))
    pseudo = mean_of([seeds * math.log(whole) - (seeds - 1) * math.log(value) for value in without])
    half = pseudo.high - pseudo.mean
    return Effect(whole, whole * math.exp(-half), whole * math.exp(half), seeds, "times", tuple(without))


def predicted_over_measured(sweep: dict[int, list[float]], pieces: Array, measured_at: int) -> dict[int, Effect]:
    """By batch size, the steps predicted from one batch size over those that training took, with intervals over seeds.

    Args:
      sweep: steps by seed, by batch size.
      pieces: `noise_of_pieces` of the trainings at the batch size `measured_at`.
    """
    table = {batch: np.array(steps) for batch, steps in sweep.items()}

    def ratio(batch: int, seeds: list[int]) -> float:
        known = float(table[measured_at][seeds].mean())
        steps = Steps.measured_at(measured_at, known, noise_scale(pieces[seeds]))
        return steps.needed(batch) / float(table[batch][seeds].mean())

    return {batch: jackknife(functools.partial(ratio, batch), len(pieces)) for batch in table}
