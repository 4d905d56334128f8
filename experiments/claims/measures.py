"""What more than one question measures of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from fitcore.noise.results import NoiseCurves


def noise_shares(noise: NoiseCurves, pieces: int = 3) -> list[float]:
    """The share of noise in the squared norm of an update's gradient, in so many parts of a run one after the other.

    tr(Sigma)/B over |G_B|^2, each averaged over the part: between 0, the gradient of all data, and 1, nothing but noise (as
    both are estimates, somewhat beyond).
    """
    cuts = np.linspace(0, len(noise.step), pieces + 1).astype(int)
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    per_batch = noise.trace / noise.batch_size
    return [float(np.nansum(per_batch[part]) / np.nansum(noise.batch_grad_norm_sq[part])) for part in parts]


def barrier(loss: Callable[[], float], model: keras.Model, start: Sequence[Any], end: Sequence[Any], points: int = 9) -> float:
    """The highest loss on the straight line between two sets of weights, over that at the higher end, relative to that."""
    losses = []
    for t in np.linspace(0.0, 1.0, points):
        model.set_weights([(1 - t) * a + t * b for a, b in zip(start, end)])
        losses.append(loss())
    return max(losses) / max(losses[0], losses[-1]) - 1
