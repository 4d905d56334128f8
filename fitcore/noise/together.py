"""Squared norms of many small tensors in few ops: in a deep model of small layers it is the number of ops that costs.

What comes of many weights is kept as `Pieces`: vectors, each with the places its values belong to.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fitcore.noise.factors import Factor, Outer, Plain, wide
from fitcore.tracing import for_xla

SMALL = 1 << 8  # values in a tensor that is put side by side with others of its shape: beyond, copying costs more than ops

Pieces = list[tuple[Sequence[int], tf.Tensor]]


def in_order(pieces: Pieces) -> tf.Tensor:
    """All values of the vectors, float64, in the order of their places: 0, 1, ..., each once."""
    values = [vector for _, vector in pieces]
    if len({vector.dtype for vector in values}) > 1:
        values = [tf.cast(vector, tf.float64) for vector in values]
    joined = tf.cast(values[0] if len(values) == 1 else tf.concat(values, axis=0), tf.float64)
    places = list(itertools.chain.from_iterable(each for each, _ in pieces))
    return joined if places == sorted(places) else tf.gather(joined, np.argsort(places))


def moved(pieces: Pieces, by: int) -> Pieces:
    """The same vectors, so many places further on."""
    return [([place + by for place in places], vector) for places, vector in pieces]


def scalars(found: Mapping[int, tf.Tensor]) -> Pieces:
    """Pieces of scalars by their places."""
    by_type: dict[tf.DType, list[int]] = {}
    for place, value in found.items():
        by_type.setdefault(value.dtype, []).append(place)
    return [(places, tf.stack([found[place] for place in places])) for places in by_type.values()]


def norms_sq(tensors: Sequence[tf.Tensor]) -> Pieces:
    """The sum of squares of each."""
    by_shape: dict[Any, list[int]] = {}
    alone: dict[int, tf.Tensor] = {}
    for k, tensor in enumerate(tensors):
        size = tensor.shape.num_elements()
        if size is not None and size <= SMALL:
            by_shape.setdefault((tuple(tensor.shape), tensor.dtype), []).append(k)
        else:
            alone[k] = tf.nn.l2_loss(tensor)
    pieces: Pieces = [(places, 2 * vector) for places, vector in scalars(alone)]
    for (shape, _), places in by_shape.items():
        stacked = tf.square(tf.stack([tensors[k] for k in places]))
        pieces.append((places, tf.reduce_sum(stacked, axis=list(range(1, 1 + len(shape))))))
    return pieces


def is_flat(factor: Factor | None) -> bool:
    """Whether a factor is rows, or a product of rows: its squares cost next to nothing."""
    return factor is None or isinstance(factor, Plain) or (isinstance(factor, Outer) and factor.d.shape.rank == 2)


def flat_deviations(factors: Mapping[int, Any]) -> Pieces:
    """`deviations` of factors that are flat and not None, by their places: sum over i of |J_i|^2 each.

    All must have the same number of rows, known while tracing.
    """
    norms: dict[int, tf.Tensor] = {}  # [n], of the rows of each tensor

    def stacked(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        for tensor in tensors:
            if id(tensor) not in norms:
                norms[id(tensor)] = _row_norms(wide(tensor))
        return tf.stack([norms[id(tensor)] for tensor in tensors])

    kinds: dict[Any, list[int]] = {}
    for place, factor in factors.items():
        kinds.setdefault((type(factor), wide(factor.d).dtype), []).append(place)
    pieces: Pieces = []
    for (kind, _), places in kinds.items():
        rows = stacked([factors[place].d for place in places])
        if kind is Outer:
            rows *= stacked([factors[place].a[0] for place in places])
        pieces.append((places, tf.reduce_sum(tf.square(rows), axis=1)))
    return pieces


def _row_norms(rows: tf.Tensor) -> tf.Tensor:
    """The Euclidean norm of each row: by one op, which XLA hasn't got and needn't have."""
    if for_xla.get():
        return tf.sqrt(tf.reduce_sum(tf.square(rows), axis=1))
    return tf.math.reduce_euclidean_norm(rows, axis=1)
