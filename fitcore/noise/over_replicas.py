"""Gradient noise over the replicas of a `tf.distribute` strategy: what each one adds up, and what the sums say.

The gradient that is applied is the sum G over replicas of their gradients G_r. How much replica r's n_r rows have to say in it
is its share a_r, with sum 1: 1/R where the loss is a mean, since Keras takes the mean over a replica's rows and divides it by
the number of replicas R; n_r/n where it is a sum. So G_r/a_r is the mean gradient of n_r examples, and row i's contribution
J_i to G is a_r/n_r times that example's gradient g_i = J_i n_r/a_r. If all have equally many rows this is what one device
has: the mean of the g_i is G. In an uneven batch a row on a replica with fewer rows weighs more, in G and here; with

    V = sum over r of a_r^2/n_r         1/V: the examples in the batch, in effect; n if all have equally many

these are unbiased, for independent examples of covariance Sigma, from each example's gradient and from the replicas' alone:

    tr(Sigma)^ = sum over r of n_r/a_r * (sum over its rows of |J_i - a_r/n_r G|^2) / (1 - V)
    tr(Sigma)^ = sum over r of a_r |G_r/a_r - G|^2 / (sum over r of a_r/n_r - V)
    |G|^2^     = |G|^2 - V tr(Sigma)^

The second is McCandlish et al. (2018, arXiv:1812.06162), appendix A.1, with micro-batches of any sizes. A replica without rows
has no share, and Keras's division by R makes G smaller by R'/R, with R' the replicas that have any. That is undone here.

Each replica sums over its own rows; the sums of all weights, side by side in one vector, are then summed over replicas at
once. G is the very sum that the optimizer takes (`fitcore.replicas.Totals`), so that this vector is all that is sent more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fitcore.tracing import total

HEAD = 3  # values at the head of a row: examples in the batch, the same in effect (1/V), replicas that have any


@dataclass(frozen=True)
class Part:
    """One replica's part in a step's batch. Scalars, float64, traced inside of that replica.

    Attributes:
      rows: n_r.
      share: a_r, as if no replica were empty.
      factor: n_r/a_r.
      replicas: R.
      is_sum: whether the loss is a sum over rows.
    """

    rows: tf.Tensor
    share: tf.Tensor
    factor: tf.Tensor
    replicas: int
    is_sum: bool

    @classmethod
    def of(cls, rows: tf.Tensor, replicas: int, is_sum: bool) -> Part:
        """That of the replica in which this is traced. Where the loss is a sum, their rows are summed up first."""
        if is_sum:
            n = total(rows)
            return cls(rows, rows / n, n, replicas, is_sum)
        return cls(rows, tf.constant(1 / replicas, tf.float64), replicas * rows, replicas, is_sum)

    def head(self) -> tf.Tensor:
        """What is summed for the head of the row: [HEAD]."""
        weight = tf.math.divide_no_nan(tf.square(self.share), self.rows)
        return tf.stack([self.rows, weight, tf.cast(self.rows > 0, tf.float64)])

    def joined(self, summands: tf.Tensor, norms_sq: Sequence[tf.Tensor], split: np.ndarray, ghost: np.ndarray) -> tf.Tensor:
        """The whole batch's row, the same on all replicas: [HEAD], the deviations as `statistics.estimate` takes them, norms.

        Args:
          summands: [HEAD + entries], this replica's: the head, and for each entry |G_r - a_r G|^2/a_r where `split`, else
            n_r/a_r times the sum over its rows of |J_i - a_r/n_r G|^2, or where `ghost` of |J_i|^2. All zero: not measured.
          norms_sq: vectors [entries] of squared norms of the whole batch's gradient, of which the first is |G|^2.
          split, ghost: [entries].
        """
        summed = total(summands)
        n, weight, filled = tf.unstack(summed[:HEAD])
        # With empty replicas the others' shares are 1/R' in truth, and G is s times too small.
        s = tf.where(filled > 0, tf.ones_like(filled) if self.is_sum else filled / self.replicas, 1.0)
        effective = tf.math.divide_no_nan(tf.square(s), weight)
        beside = tf.where(ghost, tf.ones_like(s), tf.where(split, 1 - s, tf.square(1 - s)))
        spread = (s * summed[HEAD:] - beside * norms_sq[0]) / tf.square(s)
        d = tf.where(split, filled, effective) * spread
        return tf.concat([tf.stack([n, effective, filled]), d, *(norm / tf.square(s) for norm in norms_sq)], axis=0)
