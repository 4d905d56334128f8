"""Per-example gradients of one weight, in the form that is cheapest to keep: J_i, with sum over the rows i = the gradient.

    Outer   J_i = sum over t of a_it d_it^T      dense layers, convolutions by patches, recurrent kernels
    Rows    J_i = sum over t of onehot(id_it) d_it^T      embeddings
    Each    J_i as they are, [n, *shape]         biases, scales, whatever has no structure

All that is needed of them is one number: the sum over i of |J_i - mean|^2. `Each`, and `Outer` where multiplying out is
cheap, give it in that centred form. The others ("ghost norms") give the sum of |J_i|^2, from inner products alone and
without ever holding a J_i; the rest is a difference, which loses digits when the noise is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf


class Factor(Protocol):
    """Per-example gradients of one weight, from one or several uses of it.

    Attributes:
      centred: whether `deviations` subtracts the mean.
      bytes_per_example: memory that `deviations` takes for each row.
      bytes_for_squares: memory that `squares` takes for each row.
    """

    @property
    def centred(self) -> bool: ...

    @property
    def bytes_per_example(self) -> int: ...

    @property
    def bytes_for_squares(self) -> int: ...

    def deviations(self, mean: tf.Tensor) -> tf.Tensor:
        """Scalar: sum over i of |J_i - mean|^2 if `centred`, else of |J_i|^2."""

    def squares(self) -> tf.Tensor:
        """Sum over i of the squares of J_i's entries: of the weight's shape."""

    def each(self) -> tf.Tensor:
        """The J_i multiplied out: [n, *shape of the weight]."""


def wide(tensor: tf.Tensor) -> tf.Tensor:
    """In float32 at least: squares of float16 overflow."""
    return tensor if tensor.dtype in (tf.float32, tf.float64) else tf.cast(tensor, tf.float32)


def sum_sq(tensor: tf.Tensor) -> tf.Tensor:
    """Sum of squares, in one op."""
    return 2 * tf.nn.l2_loss(tensor)


@dataclass(frozen=True)
class Each:
    """[n, *shape], one J_i per row. `make` computes it; it may be called more than once."""

    make: Callable[[], tf.Tensor]
    bytes_per_example: int
    centred: bool = True

    @classmethod
    def of(cls, tensor: tf.Tensor) -> Each:
        return cls(lambda: tensor, 4 * math.prod(d or 1 for d in tensor.shape[1:]))

    @property
    def bytes_for_squares(self) -> int:
        return 2 * self.bytes_per_example

    def deviations(self, mean: tf.Tensor) -> tf.Tensor:
        return sum_sq(self.each() - mean)

    def squares(self) -> tf.Tensor:
        return tf.reduce_sum(tf.square(self.each()), axis=0)

    def each(self) -> tf.Tensor:
        return wide(self.make())


@dataclass(frozen=True)
class Plain:
    """[n, p]: each row is its J_i. Uncentred: beside an `Outer` of the same rows its squares are there already."""

    d: tf.Tensor
    centred = False
    bytes_per_example = bytes_for_squares = 0

    def deviations(self, mean: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(row_sum_sq(wide(self.d)))

    def squares(self) -> tf.Tensor:
        return tf.reduce_sum(tf.square(wide(self.d)), axis=0)

    def each(self) -> tf.Tensor:
        return wide(self.d)


@dataclass(frozen=True)
class Outer:
    """J_i = sum over t of a_it d_it^T, [p, q], laid out as the weight is.

    Args:
      a: blocks of [n, T, p_k], or one of [n, p] if there is no T. The weight has the blocks' p one after the other.
      d: [n, T, q] or [n, q].
      shape: the weight's.
      upright: whether `a` is [n, p_k, T] instead: as it is multiplied.
      dims, order: the weight is reshape([p, q], dims), transposed to `order`; None: reshape alone.
    """

    a: Sequence[tf.Tensor]
    d: tf.Tensor
    shape: tuple[int, ...]
    dims: tuple[int, ...] | None = None
    order: tuple[int, ...] | None = None
    upright: bool = False

    @property
    def _widths(self) -> list[int]:
        """p of each block."""
        return [int(a.shape[1 if self.upright else -1]) for a in self.a]

    @property
    def _sizes(self) -> tuple[int | None, int, int]:
        """(T, all p, q)."""
        time = 1 if self.d.shape.rank == 2 else self.d.shape[1]
        return time, sum(self._widths), int(self.d.shape[-1])

    @property
    def _gram(self) -> bool:
        """Whether T x T inner products take fewer operations than multiplying out."""
        time, p, q = self._sizes
        return time is not None and time * (p + q) < p * q

    @property
    def centred(self) -> bool:
        return self.d.shape.rank == 3 and not self._gram

    @property
    def bytes_per_example(self) -> int:
        time, p, q = self._sizes
        if self.d.shape.rank == 2:
            return 4 * (p + q)
        if self._gram:
            return 12 * (time or 1) ** 2
        return 8 * max(self._widths) * q

    @property
    def bytes_for_squares(self) -> int:
        _, p, q = self._sizes
        return 4 * (p + q) if self.d.shape.rank == 2 else 12 * p * q

    def deviations(self, mean: tf.Tensor) -> tf.Tensor:
        d = wide(self.d)
        if d.shape.rank == 2:
            (a,) = self.a
            return tf.reduce_sum(row_sum_sq(wide(a)) * row_sum_sq(d))
        if self._gram:
            grams = [tf.matmul(a, a, transpose_a=self.upright, transpose_b=not self.upright) for a in map(wide, self.a)]
            return tf.reduce_sum((grams[0] if len(grams) == 1 else tf.add_n(grams)) * tf.matmul(d, d, transpose_b=True))
        means = tf.split(self._as_matrix(mean), self._widths) if len(self.a) > 1 else [self._as_matrix(mean)]
        terms = [sum_sq(tf.matmul(wide(a), d, transpose_a=not self.upright) - m) for a, m in zip(self.a, means)]
        return terms[0] if len(terms) == 1 else tf.add_n(terms)

    def squares(self) -> tf.Tensor:
        if self.d.shape.rank == 2:  # without a sum over t the square of a product is the product of squares
            (a,) = self.a
            return self._as_weight(tf.matmul(tf.square(wide(a)), tf.square(wide(self.d)), transpose_a=True))[0]
        return tf.reduce_sum(tf.square(self.each()), axis=0)

    def each(self) -> tf.Tensor:
        d = wide(self.d)
        if d.shape.rank == 2:
            return self._as_weight(wide(self.a[0])[:, :, None] * d[:, None, :])
        products = [tf.matmul(wide(a), d, transpose_a=not self.upright) for a in self.a]
        return self._as_weight(products[0] if len(products) == 1 else tf.concat(products, axis=1))

    def _as_matrix(self, weight: tf.Tensor) -> tf.Tensor:
        _, p, q = self._sizes
        if self.order is not None:
            inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
            weight = tf.transpose(weight, inverse)
        return tf.reshape(weight, [p, q])

    def _as_weight(self, matrices: tf.Tensor) -> tf.Tensor:
        weights = tf.reshape(matrices, [-1, *(self.dims or self.shape)])
        return weights if self.order is None else tf.transpose(weights, [0, *(axis + 1 for axis in self.order)])


@dataclass(frozen=True)
class Rows:
    """J_i has d_it added to its row ids_it, for each t: an embedding's.

    Args:
      ids: [n, T] int.
      d: [n, T, q].
      shape: the weight's, [rows, q].
    """

    ids: tf.Tensor
    d: tf.Tensor
    shape: tuple[int, ...]
    centred = False

    @property
    def bytes_per_example(self) -> int:
        time = self.ids.shape[1] or 1
        return 4 * min(3 * time * time, 3 * time * self.shape[1])

    @property
    def bytes_for_squares(self) -> int:
        time = self.ids.shape[1] or 1
        return 4 * (2 * time * time + 3 * time * self.shape[1])

    def deviations(self, mean: tf.Tensor) -> tf.Tensor:
        time, q = self.ids.shape[1], self.shape[1]
        d = wide(self.d)
        if time is not None and time <= 2 * q:
            same = tf.cast(tf.equal(self.ids[:, :, None], self.ids[:, None, :]), d.dtype)
            return tf.reduce_sum(same * tf.matmul(d, d, transpose_b=True))
        # Long sequences: sorted by id, equal ones stand together and are summed.
        order = tf.argsort(self.ids, axis=1)
        ids, d = tf.gather(self.ids, order, batch_dims=1), tf.gather(d, order, batch_dims=1)
        starts = tf.concat([tf.ones_like(ids[:, :1]), tf.cast(tf.not_equal(ids[:, 1:], ids[:, :-1]), ids.dtype)], axis=1)
        segments = tf.cumsum(tf.reshape(starts, [-1])) - 1
        return sum_sq(tf.math.segment_sum(tf.reshape(d, [-1, q]), segments))

    def squares(self) -> tf.Tensor:
        d = wide(self.d)
        same = tf.cast(tf.equal(self.ids[:, :, None], self.ids[:, None, :]), d.dtype)
        products = d * tf.matmul(same, d)  # summed over the t of one id: the square of that id's sum
        return tf.math.unsorted_segment_sum(products, self.ids, self.shape[0])

    def each(self) -> tf.Tensor:
        d = wide(self.d)
        return tf.matmul(tf.one_hot(self.ids, self.shape[0], dtype=d.dtype), d, transpose_a=True)


def combine(factors: Sequence[Factor]) -> Factor:
    """The factor of a weight that is used several times: J_i is the sum over its uses."""
    if len(factors) == 1:
        return factors[0]
    if all(isinstance(f, Outer) for f in factors):
        outers: list[Any] = list(factors)
        if len({(len(f.a), f.dims, f.order) for f in outers}) == 1 and not any(f.upright for f in outers):
            blocks = [tf.concat([_timed(f.a[k]) for f in outers], axis=1) for k in range(len(outers[0].a))]
            return Outer(
                blocks, tf.concat([_timed(f.d) for f in outers], axis=1), outers[0].shape, outers[0].dims, outers[0].order
            )
    if all(isinstance(f, Rows) for f in factors):
        rows: list[Any] = list(factors)
        ids = [tf.cast(f.ids, tf.int64) for f in rows]
        return Rows(tf.concat(ids, axis=1), tf.concat([wide(f.d) for f in rows], axis=1), rows[0].shape)
    size = max(f.bytes_per_example for f in factors) * (len(factors) + 1)
    return Each(lambda: tf.add_n([f.each() for f in factors]), size)


def _timed(tensor: tf.Tensor) -> tf.Tensor:
    return wide(tensor)[:, None, :] if tensor.shape.rank == 2 else wide(tensor)


def row_sum_sq(matrix: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(matrix), axis=1)
