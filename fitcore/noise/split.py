"""The split estimator's gradients: the batch cut into k micro-batches, a forward and a backward pass for each.

It works for everything that can be trained, and costs k passes more. Nothing of it is kept: updates of moving statistics,
metrics and random generators made in these passes end with them. Each micro-batch draws its own dropout masks, so that
their noise is part of what is measured, as it is part of the gradient's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fitcore.noise.calls import cut_rows


def micro_batch_gradients(
    loss_of: Callable[[Any], tf.Tensor],
    batch: Any,
    k: int,
    variables: Sequence[Any],
    regularized: Sequence[Any],
    plain_state: Sequence[Any],
) -> list[list[tf.Tensor]]:
    """Gradients [k][variables] of each micro-batch's own loss, dense; zeros where nothing depends on a weight.

    The first k * (n // k) rows are used. With n < k there are none, and the result is NaN.

    Args:
      loss_of: (x, y, sample_weight) -> scalar loss, traced anew for each micro-batch.
      batch: (x, y, sample_weight).
      k: how many micro-batches.
      variables: to differentiate with respect to.
      regularized: other weights with a regularizer.
      plain_state: `tf.Variable`s that the passes may change and that no Keras scope protects; put back.
    """
    first = next(leaf for leaf in keras.tree.flatten(batch[0]) if leaf is not None)
    rows, size = first.shape[0], tf.shape(first)[0] // k
    # A state that is drawn from in every pass (dropout's generators) goes on from one micro-batch to the next.
    gradients = []
    kept = [variable.read_value() for variable in plain_state]
    # Keras takes regularizers' weights from the scope, which must therefore have them.
    mapping = [(v, tf.convert_to_tensor(v)) for v in [*variables, *regularized] if isinstance(v, keras.Variable)]
    read = {id(v): value for v, value in mapping}
    sources = [read.get(id(v), v) for v in variables]
    scope = keras.StatelessScope(mapping, collect_losses=True)
    for j in range(k):
        part = keras.tree.map_structure(lambda leaf: _part(leaf, j, size, k, rows), batch)  # noqa: B023
        with scope, tf.GradientTape() as tape:
            tape.watch([source for source in sources if isinstance(source, tf.Tensor)])
            loss = loss_of(part)
        found = tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients.append([tf.convert_to_tensor(gradient) for gradient in found])
    for variable, value in zip(plain_state, kept):
        variable.assign(value)
    return gradients


def _part(leaf: Any, j: int, size: tf.Tensor, k: int, rows: int | None) -> Any:
    part = cut_rows(leaf, j * size, size, rows)
    if part is not leaf and rows is not None:
        part.set_shape([rows // k, *leaf.shape[1:]])
    return part
