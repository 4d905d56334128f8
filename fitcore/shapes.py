"""Which of TensorFlow's traces serves a batch of given shapes, in Keras's own compiled step.

Keras's step is a `tf.function` with `reduce_retracing`. From the second size on, its trace has an unknown number of rows, and
serves all sizes to come. Last bits depend on which trace runs: TensorFlow optimizes a graph by the shapes that are known in it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fitcore import keras_private


class Shapes:
    """What one `tf.function` that takes iterators has been called with. TensorFlow's own rules say which trace serves which.

    There is one for each of Keras's compiled steps, and it is forgotten together with it.
    """

    def __init__(self) -> None:
        self._first: Any = None
        self._function: Any = None  # made for the second spec: many models see one only

    def serving(self, spec: Any) -> Any:
        """Spec of the batches in the trace that Keras's step would run for an iterator over batches of `spec`.

        Args:
          spec: nest of specs of a batch, a dataset's `element_spec`.
        """
        spec = tf.data.IteratorSpec(spec)
        if self._first is None:
            self._first = spec
        if self._function is None and spec != self._first:
            self._function = tf.function(lambda iterator: None, autograph=False, reduce_retracing=True)
            self._function.get_concrete_function(self._first)
        if self._function is not None:
            (spec,), _ = self._function.get_concrete_function(spec).structured_input_signature
        return keras_private.element_spec(spec)
