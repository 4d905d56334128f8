"""The split estimator's gradients: the batch cut into k micro-batches, a forward and a backward pass for each.

It works for everything that can be trained, and costs k passes more. Nothing of it is kept: updates of moving statistics,
metrics and random generators made in these passes end with them, and what a loss or a layer assigns to a variable of its own,
or puts into a table, is put back. What can't be put back, such as what is taken out of a queue, is refused when the step is
traced. Each micro-batch draws its own dropout masks, so that their noise is part of what is measured, as it is part of the
gradient's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise.calls import cut_rows


class LostError(ValueError):
    """Running the loss and the layers again would change what can't be put back."""


class _Scope(keras.StatelessScope):
    """Keeps what is assigned to variables, and watches it: a layer that assigns to a weight it trains, and then uses it, has
    its gradient there. As in the training, none goes through the assignment.

    Attributes:
      tape: that of the pass being made.
      assigned: in that pass, by the variable's id.
    """

    tape: Any = None
    assigned: dict[int, list[tf.Tensor]]

    def add_update(self, update: Any) -> None:
        variable, value = update
        if value.dtype.is_floating:
            value = tf.stop_gradient(value)
            if self.tape is not None:
                self.tape.watch(value)
                self.assigned.setdefault(id(variable), []).append(value)
        super().add_update((variable, value))


class Passes:
    """Passes over parts of one batch that leave nothing behind. Used as a context, around all of them.

    Args:
      loss_of: (x, y, sample_weight) -> scalar loss, traced anew for each pass.
      batch: (x, y, sample_weight).
      k: how many micro-batches. The first k * (n // k) rows are used. With n < k each part is one row, some of them the same:
        passes over no rows at all are more than many kernels can do (oneDNN's convolution then gives outputs of a wrong shape).
        What comes of these parts means nothing: see `enough`.
      variables: to differentiate with respect to.
      regularized: other weights with a regularizer.

    Attributes:
      size: rows in each micro-batch.
      enough: whether the batch has a row for each micro-batch. If not, nothing is to be made of the passes.

    Raises:
      LostError: at the end of the context, if the passes change what can't be put back.
    """

    def __init__(
        self,
        loss_of: Callable[[Any], tf.Tensor],
        batch: Any,
        k: int,
        variables: Sequence[Any],
        regularized: Sequence[Any],
    ) -> None:
        first = next(leaf for leaf in keras.tree.flatten(batch[0]) if leaf is not None)
        self._rows, self._k = first.shape[0], k
        self._n = tf.shape(first)[0]
        self.size, self.enough = tf.maximum(self._n // k, 1), self._n >= k
        self._loss_of, self._batch = loss_of, batch
        # Keras takes regularizers' weights from the scope, which must therefore have them.
        self._mapping = [(v, tf.convert_to_tensor(v)) for v in [*variables, *regularized] if isinstance(v, keras.Variable)]
        read = {id(v): value for v, value in self._mapping}
        self._ids = [id(v) for v in variables]
        self._sources = [read.get(id(v), v) for v in variables]
        # One scope for all: dropout's generators go on from one pass to the next.
        self._scope = _Scope(self._mapping, collect_losses=True)
        self._kept: dict[int, Callable[[], Any]] = {}  # by the handle's id, what puts its value back
        self._waiting = contextlib.ExitStack()
        self._began = 0

    def __enter__(self) -> Passes:
        # Keras's scope keeps what is assigned to Keras's variables, but not what is assigned to a `tf.Variable`. The step has
        # made this very pass already, so what it assigned are the variables that these passes may assign. They are read here,
        # behind the step's own assignments and before any of the passes.
        graph = tf.compat.v1.get_default_graph()
        copies: list[tf.Tensor] = []
        for around in keras_private.surrounding(graph):
            for found in keras_private.effects(around).written():
                if id(found.handle) not in self._kept and (kept := keras_private.kept(found)) is not None:
                    self._kept[id(found.handle)], own = kept
                    copies += own
        if copies:
            self._waiting.enter_context(tf.control_dependencies(copies))
        self._began = keras_private.version(graph)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._waiting.close()
        effects = keras_private.effects(tf.compat.v1.get_default_graph(), self._began)
        written = effects.written()
        lost = [f"{each.name} ({', '.join(sorted(each.written_by))})" for each in written if id(each.handle) not in self._kept]
        lost += effects.hidden
        if lost:
            raise LostError(
                "`noise`: gradients that are measured by splitting the batch need the loss and the layers to run again, and "
                f"what they change then can't be put back: {'; '.join(lost)}. Keep it in a tf.Variable that each step assigns, "
                "or train without `noise`."
            )
        if effects.python:
            warnings.warn(
                "`noise`: gradients that are measured by splitting the batch need the loss and the layers to run again, and so "
                "the Python functions in them (tf.py_function, tf.numpy_function). What these keep from call to call differs "
                "then from a training without `noise`.",
                stacklevel=2,
            )
        for each in written:
            self._kept[id(each.handle)]()

    def gradients(self, j: int) -> list[tf.Tensor]:
        """Gradients of micro-batch j's own loss, dense; zeros where nothing depends on a weight."""
        part = keras.tree.map_structure(lambda leaf: self._part(leaf, j), self._batch)
        self._scope.state_mapping |= {id(variable): value for variable, value in self._mapping}  # each pass starts from these
        with self._scope, tf.GradientTape() as tape:
            tape.watch([source for source in self._sources if isinstance(source, tf.Tensor)])
            self._scope.tape, self._scope.assigned = tape, {}
            loss = self._loss_of(part)
            self._scope.tape = None
        places = [[source, *self._scope.assigned.get(key, [])] for key, source in zip(self._ids, self._sources)]
        found = tape.gradient(loss, places, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        dense = [[tf.convert_to_tensor(gradient) for gradient in each] for each in found]
        return [each[0] if len(each) == 1 else tf.add_n(each) for each in dense]

    def hessian_form(self, j: int, vector: Sequence[tf.Tensor]) -> tf.Tensor:
        """v^T H v, float64, with H the Hessian of micro-batch j's loss and v one tensor per variable."""
        with tf.GradientTape() as outer:
            outer.watch([source for source in self._sources if isinstance(source, tf.Tensor)])
            slope = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(self.gradients(j), vector)])
        found = outer.gradient(slope, self._sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        products = [tf.reduce_sum(tf.convert_to_tensor(h) * v) for h, v in zip(found, vector)]
        return tf.cast(tf.add_n(products), tf.float64)

    def _part(self, leaf: Any, j: int) -> Any:
        start = tf.minimum(j * self.size, self._n - self.size)
        part = cut_rows(leaf, slice(start, start + self.size), self._rows)
        if part is not leaf and self._rows is not None:
            part.set_shape([max(self._rows // self._k, 1), *leaf.shape[1:]])
        return part


def curvature(passes: Passes) -> tuple[tf.Tensor, tf.Tensor]:
    """Unbiased (tr(H Sigma), G^T H G), float64, from three micro-batches: B_noise's numerator and denominator. NaN of less.

    With G_j, G_l and H_m from three different micro-batches, all independent,
        E (G_j - G_l)^T H_m (G_j - G_l) = 2 tr(H Sigma)/size      E G_j^T H_m G_l = G^T H G,
    and the second is a quarter of the difference of the form at G_j + G_l and at G_j - G_l. Each of the three takes its turn
    as m. (A Hessian of the same examples as the gradients would be correlated with them.)
    """
    gradients = [passes.gradients(j) for j in range(3)]
    traces, products = [], []
    for m in range(3):
        a, b = (gradients[j] for j in range(3) if j != m)
        apart = passes.hessian_form(m, [p - q for p, q in zip(a, b)])
        together = passes.hessian_form(m, [p + q for p, q in zip(a, b)])
        traces.append(apart / 2)
        products.append((together - apart) / 4)
    trace, norm = tf.cast(passes.size, tf.float64) * tf.add_n(traces) / 3, tf.add_n(products) / 3
    return tf.where(passes.enough, trace, np.nan), tf.where(passes.enough, norm, np.nan)
