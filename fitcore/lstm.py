"""An LSTM over time for XLA on a CPU: what each step of the loop needs is in it, all else is done for all times at once.

Left to the tape, the loop backward sums up the weights' gradients step by step, and remembers a dozen arrays for each time.
Here the loop forward keeps two, the gates and the carry, in the place of what it was given; the loop backward is one matrix
product and a few multiplications per time; and the gradients of all weights are one product after it. The deltas of all times
come out of that in one piece, which is all that the gradient noise needs. Other last bits than Keras's cell.

Arrays are time-major: [T, n, units].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

TANH, SIGMOID = keras.activations.tanh, keras.activations.sigmoid
ELEMENTWISE = (TANH, SIGMOID, keras.activations.relu, keras.activations.linear)


def apply(function: Any, z: tf.Tensor) -> tf.Tensor:
    """f(z) of one of `ELEMENTWISE`."""
    if function is SIGMOID:
        return 0.5 * tf.tanh(0.5 * z) + 0.5  # TensorFlow's own takes longer on a CPU
    y: tf.Tensor = function(z)
    return y


def times_slope(function: Any, y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """dy f'(z), of one of `ELEMENTWISE`, from y = f(z): one op."""
    if function is TANH:
        return tf.raw_ops.TanhGrad(y=y, dy=dy)
    if function is SIGMOID:
        return tf.raw_ops.SigmoidGrad(y=y, dy=dy)
    return tf.raw_ops.ReluGrad(gradients=dy, features=y) if function is keras.activations.relu else dy


@dataclass(frozen=True)
class Weights:
    """Of Keras's cell: [p, 4 u], [u, 4 u] and [4 u], or no bias; the gates are input, forget, new and output."""

    kernel: tf.Tensor
    recurrent: tf.Tensor
    bias: tf.Tensor | None


@dataclass(frozen=True)
class Times:
    """What came of it.

    Attributes:
      tap: [n, T, 4 u]; the gradient there is that at what the gates' activations were given.
      before: the state before each time, [n, T, u]; no gradient goes through it.
      outputs: the state after each time, [n, T, u]; no gradient goes through it unless `whole`.
      last, carry: state and carry after the last time, [n, u].
    """

    tap: tf.Tensor
    before: tf.Tensor
    outputs: tf.Tensor
    last: tf.Tensor
    carry: tf.Tensor


def lstm(x: tf.Tensor, state: tf.Tensor, carry: tf.Tensor, weights: Weights, activation: Any, gate: Any, whole: bool) -> Times:
    """Run it.

    Args:
      x: [n, T, p], T known.
      state, carry: at the start, [n, u].
      weights: the cell's.
      activation, gate: of `ELEMENTWISE`.
      whole: whether there may be a gradient at the outputs of each time.
    """
    times, units = x.shape[1], weights.recurrent.shape[0]
    # Nobody reads it, so XLA doesn't make it. A tape gives the gradient at what comes of a variable, be it zeros.
    tap = tf.broadcast_to(tf.raw_ops.ZerosLike(x=weights.recurrent[0]), [tf.shape(x)[0], times, 4 * units])
    tap.set_shape([x.shape[0], times, 4 * units])
    given = [weights.kernel, weights.recurrent, *([] if weights.bias is None else [weights.bias])]
    gates = _gates(activation, gate, units)

    def run(_tap: tf.Tensor, x: tf.Tensor, h0: tf.Tensor, c0: tf.Tensor, w: tf.Tensor, u: tf.Tensor, *bias: tf.Tensor) -> Any:
        x = _turned(x)
        z = _project(x, w)
        z = z + bias[0] if bias else z

        def step(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, zs: Any, cs: Any) -> tuple[Any, ...]:
            a = gates(zs.read(t) + tf.matmul(h, u))
            i, f, g, o = tf.split(a, 4, axis=1)
            c = f * c + i * g
            return t + 1, o * apply(activation, c), c, zs.write(t, a), cs.write(t, c)

        start = 0, h0, c0, _in_place(z), tf.TensorArray(x.dtype, times, element_shape=c0.shape)
        _, h, c, zs, cs = tf.while_loop(lambda t, *_: t < times, step, start, maximum_iterations=times)
        a, after = zs.stack(), cs.stack()
        i, f, g, o = tf.split(a, 4, axis=2)
        y = apply(activation, after)
        outputs = o * y
        before = tf.concat([h0[None], outputs[:-1]], axis=0)
        carries = tf.concat([c0[None], after[:-1]], axis=0)

        def gradients(dh: tf.Tensor, dc: tf.Tensor, at_outputs: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
            at_outputs = _turned(at_outputs)
            by_gate = [times_slope(*each) for each in ((gate, i, g), (gate, f, carries), (activation, g, i), (gate, o, y))]
            through = times_slope(activation, y, o)
            u_back = tf.transpose(u)  # else it would be turned at each time

            def step(t: tf.Tensor, dh: tf.Tensor, dc: tf.Tensor, ds: Any) -> tuple[Any, ...]:
                dh = dh + at_outputs[t] if whole else dh
                dc = dc + dh * through[t]
                d = tf.concat([dc, dc, dc, dh], axis=1) * ds.read(t)
                return t - 1, tf.matmul(d, u_back), dc * f[t], ds.write(t, d)

            start = times - 1, dh, dc, _in_place(tf.concat(by_gate, axis=2))
            _, dh, dc, ds = tf.while_loop(lambda t, *_: t >= 0, step, start, maximum_iterations=times)
            d = ds.stack()
            d.set_shape(a.shape)
            inputs = [x, before, *(tf.ones_like(x[..., :1]) for _ in bias)]
            product = _rows(tf.concat(inputs, axis=2))
            dw, du, *db = tf.split(tf.matmul(product, _rows(d), transpose_a=True), [each.shape[-1] for each in inputs])
            return [_turned(d), _turned(tf.tensordot(d, w, [[2], [1]])), dh, dc, dw, du, *(each[0] for each in db)]

        return (h, c, _turned(outputs), _turned(before)), gradients

    last, end, outputs, before = tf.custom_gradient(run)(tap, x, state, carry, *given)
    return Times(tap, before, outputs, last, end)


def _gates(activation: Any, gate: Any, units: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The four gates' activations of what stands side by side."""
    if (activation, gate) == (TANH, SIGMOID):  # all in one loop: a sigmoid is a tanh
        half = np.repeat([0.5, 0.5, 1.0, 0.5], units)
        return lambda z: tf.tanh(z * tf.cast(half, z.dtype)) * tf.cast(half, z.dtype) + tf.cast(half % 1, z.dtype)

    def each(z: tf.Tensor) -> tf.Tensor:
        i, f, g, o = tf.split(z, 4, axis=1)
        return tf.concat([apply(gate, i), apply(gate, f), apply(activation, g), apply(gate, o)], axis=1)

    return each


def _project(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """x W for all times; a product with one row is an outer one, which XLA does as a matrix product more slowly."""
    if x.shape[-1] == 1:
        return x * kernel
    product = tf.tensordot(x, kernel, 1)
    product.set_shape([*x.shape[:-1], kernel.shape[1]])
    return product


def _in_place(array: tf.Tensor) -> tf.TensorArray:
    """Its slices, each to be read and then replaced."""
    slices = tf.TensorArray(array.dtype, array.shape[0], clear_after_read=False, element_shape=array.shape[1:])
    return slices.unstack(array)


def _turned(array: tf.Tensor) -> tf.Tensor:
    """[n, T, k] -> [T, n, k], and back."""
    return tf.transpose(array, [1, 0, 2])


def _rows(array: tf.Tensor) -> tf.Tensor:
    """[T, n, k] -> [T n, k]"""
    return tf.reshape(array, [-1, array.shape[-1]])
