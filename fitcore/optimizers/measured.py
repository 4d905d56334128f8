"""How the gradient noise measured in a step reaches the optimizer of that step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf


class Measured(NamedTuple):
    """What an optimizer that has a `noise` is given beside the gradients: float64 scalars of this step.

    Attributes:
      examples: in the batch; 0 where `noise.every` leaves the step out, and all else is 0 too.
      trace: unbiased estimate of tr(Sigma), the variance of one example's gradient, summed over all weights. 0 for a batch
        of one, or too small to be split: it says nothing; see `known`.
      grad_norm_sq: unbiased estimate of the true gradient's squared norm; may be negative. Regularization is left out of both.
      known: whether the two could be estimated, bool.
    """

    examples: tf.Tensor
    trace: tf.Tensor
    grad_norm_sq: tf.Tensor
    known: tf.Tensor


def measured(probe: Any, row: tf.Tensor) -> Measured:
    """What a row says that `probe`, a `fitcore.noise.Probe`, recorded in this step; traced."""
    totals = probe.totals(row)
    trace, grad_norm_sq = totals["noise/trace"], totals["noise/grad_norm_sq"]
    known = tf.math.is_finite(trace) & tf.math.is_finite(grad_norm_sq)
    zero = tf.zeros([], tf.float64)
    return Measured(row[0], tf.where(known, trace, zero), tf.where(known, grad_norm_sq, zero), known)


def check_measured(optimizer: Any, given: Measured | None) -> None:
    """Refuse an update without a measurement.

    Raises:
      ValueError: none was given.
    """
    if given is None:
        raise ValueError(
            f"{type(optimizer).__name__} needs the gradient noise of each step: train it by fitcore.fit or a fitcore.Engine, "
            "not by Keras's own fit and not inside another optimizer, such as the LossScaleOptimizer that mixed_float16 brings."
        )


def check_keywords(keywords: Mapping[str, Any], *refused: str) -> None:
    """Refuse options of Keras's SGD that would change what is measured or done with it.

    Raises:
      ValueError: one of them is set.
    """
    for name in refused:
        if keywords.get(name):
            raise ValueError(f"`{name}` can't be used here. Received: {name}={keywords[name]!r}")
