"""The evidence-based stopping criterion: is a batch's gradient larger than its noise alone would make it?

Mahsereci et al. (2017, arXiv:1703.09580) stop training, without validation data, at the first positive value of

    1 - (n/D) sum over j of G_j^2/Sigma^_jj

over the D entries j of all weights: G_j of the batch's mean gradient, Sigma^_jj the variance of one example's entry, estimated
from the same n examples. Where the true gradient is zero, n G_j^2/Sigma^_jj is the square of Student's t with n - 1 degrees of
freedom, whose mean is not 1 but (n - 1)/(n - 3), so that the criterion's is not 0 but -2/(n - 3): at n = 8 it would hardly ever
stop. Recorded is

    1 - (n - 3)/(n - 1) (n/D) sum over j of G_j^2/Sigma^_jj

with mean 0 under pure noise and, since the same factor corrects the noncentral t, mean -(n/D) sum of G_j^2/Sigma_jj of the
true ones otherwise (both for normal gradients). One batch's value scatters by about sqrt(2/D) around that if entries are
independent, more if they are not: a stopping rule does well to average.

G is the gradient as applied, regularization included, since that is what vanishes at the minimum; the regularization has no
noise. Left out of sum and D are entries that no example's gradient reaches (a dead unit's, an embedding's unused rows) and
weights measured by splitting the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

LEAST = 1e-6  # of an entry's second moment: the least variance that float32 can tell from none


def criterion(entries: Sequence[tuple[Any, tf.Tensor, tf.Tensor]], n: tf.Tensor) -> tf.Tensor:
    """The corrected criterion, float64 scalar; NaN for fewer than four examples or without any entry.

    Args:
      entries: for each weight three tensors of its shape: the sum over the examples of their squared contributions J_ij^2
        (g_i = n J_i), the gradient of the data's loss G = sum of J_i, and the gradient as applied. All may be scaled by the
        same number.
      n: examples in the batch, float64.
    """
    total, count = tf.zeros([], tf.float64), tf.zeros([], tf.float64)
    for squares, data, applied in entries:
        second = tf.cast(n, squares.dtype) * squares
        variance = tf.maximum(second - tf.square(data), LEAST * second)  # (n - 1)/n Sigma^_jj
        total += tf.cast(tf.reduce_sum(tf.math.divide_no_nan(tf.square(applied), variance)), tf.float64)
        count += tf.cast(tf.math.count_nonzero(squares), tf.float64)
    found = 1 - (n - 3) * total / count
    return tf.where(tf.logical_and(n > 3, count > 0), found, np.nan)
