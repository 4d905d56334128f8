"""The loop over time of recurrent layers, with less around it than Keras's own and the same values."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from fitcore.keras_private.layers import all_layers, called_as, replaced
from fitcore.lstm import ELEMENTWISE, Times, Weights, lstm

MOST_UNROLLED = 32  # times: tracing takes some 20 ms for each
MOST_UNITS = 128  # of a cell: beyond, what is in the loop takes so long that the loop doesn't count

_TIMES = "fitcore/lstm_times"  # a graph's collection: (name of the loop's last output, Times)

# Other activations multiply by numbers, which TensorFlow gathers from one time to the next where the loop is written out.
_UNROLLED_ACTIVATIONS = (keras.activations.tanh, keras.activations.sigmoid, keras.activations.relu)

_CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)


@contextlib.contextmanager
def lean_recurrence(model: Any, unroll: bool, by_xla: bool) -> Iterator[None]:
    """Within it, in a graph, each weight of a recurrent layer is read once, not at each time step; and, if `unroll`, the loop
    over few times of a layer whose cell is Keras's LSTM, GRU or simple one is written out; if `by_xla`, that of an LSTM is
    fitcore's own.

    Read in the loop over time, a weight is one more thing that the backward pass keeps for each time step: XLA copies it so
    often. And outside XLA a loop costs about as much as what is in it. The values are the same, gradients included.

    Why: a variable gives `_cached_value`, if there is one, wherever it is used as a tensor (TensorFlow >= 2.0); nothing public
    tells a layer which tensor to take for its weight but keras.StatelessScope, which would hold back what layers assign.
    `inner_loop` is the part of a recurrent layer's call that holds the loop, and looks at `unroll` (Keras >= 3.0).
    """
    layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.RNN)]
    with contextlib.ExitStack() as changed:
        for layer in layers:
            loop = functools.partial(_loop, layer, layer.inner_loop, unroll, by_xla)
            changed.enter_context(replaced(layer, "inner_loop", loop))
        yield


def _loop(layer: Any, inner_loop: Callable[..., Any], unroll: bool, by_xla: bool, *args: Any, **kwargs: Any) -> Any:
    values = [weight.value for weight in layer.trainable_weights]  # which a call doesn't change
    weights = [value for value in values if hasattr(value, "_cached_value")]
    with contextlib.ExitStack() as changed:
        for weight in weights:
            changed.enter_context(_taken(weight, weight.read_value()))
        if unroll and len(weights) == len(values) and _can_be_unrolled(layer, **kwargs):
            changed.enter_context(replaced(layer, "unroll", True))
            changed.enter_context(replaced(layer.cell, "call", _as_in_a_loop(layer.cell.call, weights)))
        elif by_xla and _is_plain_lstm(layer, **kwargs):
            return called_as(inner_loop, functools.partial(_lstm, layer), *args, **kwargs)
        return inner_loop(*args, **kwargs)


def lstm_times(last_output: Any) -> Times | None:
    """Of an LSTM's loop that was fitcore's own, by the loop's result, what it left; None if it was Keras's."""
    found = [times for name, times in last_output.graph.get_collection(_TIMES) if name == last_output.name]
    return found[-1] if found else None


def _is_plain_lstm(layer: Any, sequences: Any = None, mask: Any = None, **_: Any) -> bool:
    """Whether it can be fitcore's own. On a GPU Keras may take cuDNN's kernels."""
    cell = layer.cell
    return (
        type(layer).inner_loop in (keras.layers.RNN.inner_loop, keras.layers.LSTM.inner_loop)
        and type(cell) is keras.layers.LSTMCell
        and cell.implementation == 2
        and cell.activation in ELEMENTWISE
        and cell.recurrent_activation in ELEMENTWISE
        and not (tf.executing_eagerly() or layer.unroll)
        and mask is None
        and tf.is_tensor(sequences)
        and None not in sequences.shape[1:]
        and not tf.config.list_logical_devices("GPU")
    )


def _lstm(layer: Any, sequences: Any, initial_state: Any, training: Any = False, **_: Any) -> tuple[Any, Any, list[Any]]:
    """What the layer's inner loop gives.

    Why: the loop asks the cell for each time; it draws one dropout mask for all, before (Keras >= 3.5).
    """
    cell = layer.cell
    x = tf.cast(sequences, cell.compute_dtype)
    if training and 0 < cell.dropout < 1:
        x *= cell.get_dropout_mask(x[:, 0])[:, None]
    if layer.go_backwards:
        x = tf.reverse(x, [1])
    given = (cell.kernel, cell.recurrent_kernel, cell.bias)
    weights = Weights(*(None if weight is None else tf.cast(weight, x.dtype) for weight in given))
    state, carry = (tf.cast(each, x.dtype) for each in initial_state)
    times = lstm(x, state, carry, weights, cell.activation, cell.recurrent_activation, layer.return_sequences)
    times.last.graph.add_to_collection(_TIMES, (times.last.name, times))
    return times.last, times.outputs, [times.last, times.carry]


def _can_be_unrolled(layer: Any, sequences: Any = None, mask: Any = None, **_: Any) -> bool:
    if (
        tf.executing_eagerly()
        or layer.unroll
        or type(layer.cell) not in _CELLS
        or layer.cell.activation not in _UNROLLED_ACTIVATIONS
        or getattr(layer.cell, "recurrent_activation", keras.activations.sigmoid) not in _UNROLLED_ACTIVATIONS
        or layer.cell.units > MOST_UNITS
        or mask is not None
        or not tf.is_tensor(sequences)
    ):
        return False
    # On a GPU Keras takes cuDNN's kernels, unless the loop is unrolled.
    return (sequences.shape[1] or MOST_UNROLLED + 1) <= MOST_UNROLLED and not tf.config.list_logical_devices("GPU")


def _as_in_a_loop(call: Callable[..., Any], weights: Sequence[Any]) -> Callable[..., Any]:
    """A cell's `call` for a loop that is written out, with the gradients of one that isn't: those of a weight are added up time
    by time, where a tape would add up all at once. Traced once for all times."""

    @functools.partial(tf.function, autograph=False)
    def traced(inputs: Any, states: Any, values: Sequence[tf.Tensor], training: bool) -> Any:
        with contextlib.ExitStack() as changed:
            for weight, value in zip(weights, values):
                changed.enter_context(_taken(weight, value))
            return call(inputs, states, training=training)

    def at_a_time(inputs: Any, states: Any, training: bool = False) -> Any:
        for weight in weights:  # the next time's gradients come through this time's
            weight._cached_value = _apart(weight._cached_value)
        states = keras.tree.map_structure(tf.convert_to_tensor, states)  # a stateful layer's first ones are variables
        return traced(inputs, states, [weight._cached_value for weight in weights], training)

    return at_a_time


def _apart(tensor: tf.Tensor) -> tf.Tensor:
    """The same tensor. TensorFlow makes one sum of many of those that follow each other, in another order; the ops of its
    gradient, between them, keep it from that."""

    def passed(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(tensor), lambda gradient: tf.ensure_shape(gradient, gradient.shape)

    same: tf.Tensor = tf.custom_gradient(passed)(tensor)
    return same


@contextlib.contextmanager
def _taken(weight: Any, value: tf.Tensor) -> Iterator[None]:
    """A weight's value is this tensor."""
    before = weight._cached_value
    weight._cached_value = value
    try:
        yield
    finally:
        weight._cached_value = before
