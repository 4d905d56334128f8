"""Squared norms of many small layers' per-example gradients at once: in a deep model of small layers it is the number of
ops that costs.

Small tensors of one shape are put side by side, which takes a fraction of the ops' fixed cost; larger ones, whose copy would
cost more than that, are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from fitcore.noise.factors import Factor, Outer, Plain, row_sum_sq, wide

SMALL = 1 << 12  # values in a tensor that is copied


def is_flat(factor: Factor | None) -> bool:
    """Whether a factor is rows, or a product of rows: its squares cost next to nothing."""
    return factor is None or isinstance(factor, Plain) or (isinstance(factor, Outer) and factor.d.shape.rank == 2)


def flat_deviations(factors: Mapping[int, Any]) -> dict[int, tf.Tensor]:
    """`deviations` of factors that are flat and not None, by the same keys: sum over i of |J_i|^2 each.

    All must have the same number of rows, known while tracing.
    """
    parts = {key: [f.a[0], f.d] if isinstance(f, Outer) else [f.d] for key, f in factors.items()}
    tensors = {id(tensor): wide(tensor) for part in parts.values() for tensor in part}
    sums = dict(zip(tensors, _rows_sums_sq(list(tensors.values()))))
    by_kind: dict[Any, dict[int, list[tf.Tensor]]] = {}
    for key, part in parts.items():
        found = [sums[id(tensor)] for tensor in part]
        by_kind.setdefault((len(found), found[0].dtype), {})[key] = found
    result: dict[int, tf.Tensor] = {}
    for (length, _), members in by_kind.items():
        rows = [tf.stack([found[k] for found in members.values()]) for k in range(length)]
        result |= zip(members, tf.unstack(tf.reduce_sum(rows[0] if length == 1 else rows[0] * rows[1], axis=1)))
    return result


def _rows_sums_sq(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """[n], the sum of squares of each row, for each [n, p]."""
    groups: dict[Any, list[int]] = {}
    for k, tensor in enumerate(tensors):
        rows, width = tensor.shape
        small = rows * width <= SMALL
        groups.setdefault((rows, width, tensor.dtype) if small else k, []).append(k)
    found: list[Any] = [None] * len(tensors)
    for members in groups.values():
        if len(members) == 1:
            found[members[0]] = row_sum_sq(tensors[members[0]])
        else:
            sums = tf.reduce_sum(tf.square(tf.stack([tensors[k] for k in members])), axis=2)
            for k, value in zip(members, tf.unstack(sums, num=len(members))):
                found[k] = value
    return found
