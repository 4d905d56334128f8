"""Per-example gradients of LSTM, GRU and SimpleRNN: dense layers with a time axis, once each gate's delta is known.

Inside Keras's loop over time the deltas can't be reached without changing its ops. So the cell is run once more, written
out, from the layer's own inputs, initial states and dropout masks; then the gradient at the layer's outputs is carried
back through it. All that doesn't depend on the step before (input products, derivatives of activations) is computed for
all times at once, derivatives from the activations' values; the loop back is one matrix product and a few multiplications
per time. In a program of XLA's an LSTM's loop is fitcore's own (lstm.py), and the deltas come of the gradient itself.

Arrays are time-major here: [T, n, units].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from fitcore import keras_private
from fitcore.lstm import ELEMENTWISE, apply, times_slope
from fitcore.noise.calls import Call, Rule
from fitcore.noise.factors import Each, Factor, Outer, wide
from fitcore.noise.rules import add

MOST_UNROLLED = 64  # times; longer loops are `tf.while_loop`s, whose every iteration costs some 20 µs more

Tensors = list[tf.Tensor]


def scan(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], states: Tensors, xs: Tensors, backwards: bool = False
) -> Tensors:
    """Run (states, slices of xs) -> (new states, outputs) over the first axis of `xs`; returns the outputs stacked.

    `backwards`: from the last slice to the first; the outputs stand where their slices do.
    """
    time = xs[0].shape[0]
    if time is not None and time <= MOST_UNROLLED:
        collected: list[Tensors] = []
        rows = list(zip(*map(tf.unstack, xs)))
        for slices in rows[:: -1 if backwards else 1]:
            states, outputs = step(states, list(slices))
            collected.append(outputs)
        return [tf.stack(column[:: -1 if backwards else 1]) for column in zip(*collected)]
    length = tf.shape(xs[0])[0]
    _, examples = step(states, [x[0] for x in xs])
    arrays = [tf.TensorArray(e.dtype, size=length, element_shape=e.shape) for e in examples]

    def body(i: tf.Tensor, states: Tensors, arrays: list[Any]) -> tuple[tf.Tensor, Tensors, list[Any]]:
        place = length - 1 - i if backwards else i
        states, outputs = step(states, [x[place] for x in xs])
        return i + 1, states, [array.write(place, out) for array, out in zip(arrays, outputs)]

    shapes = (
        tf.TensorShape([]),
        [tf.TensorShape([None, *s.shape[1:]]) for s in states],
        [tf.TensorShape(None) for _ in arrays],
    )
    _, _, arrays = tf.while_loop(lambda i, *_: i < length, body, (tf.constant(0), states, arrays), shapes)
    return [array.stack() for array in arrays]


class _Pass:
    """A noted call of the layer's inner loop, time-major and cast, with the gradient at its outputs."""

    def __init__(self, call: Call, deltas: Sequence[Any]) -> None:
        layer = call.layer
        arguments, result = call.notes["inner_loop"]
        (sequences, states, mask, training), masks = _arguments(*arguments), call.notes["dropout_masks"]
        self.cell = layer.cell
        self.x = tf.transpose(wide(sequences), [1, 0, 2])
        self.mask = None if mask is None else tf.transpose(tf.cast(mask, self.x.dtype), [1, 0])[..., None]
        if layer.go_backwards:
            self.x = tf.reverse(self.x, [0])
            self.mask = None if self.mask is None else tf.reverse(self.mask, [0])
        if training and masks[0] is not None:
            self.x *= wide(masks[0])
        self.recurrent_mask = wide(masks[1]) if training and masks[1] is not None else None
        self.states = [wide(state) for state in keras.tree.flatten(states)]
        self.kernel = tf.cast(self.cell.kernel, self.x.dtype)
        self.recurrent = tf.cast(self.cell.recurrent_kernel, self.x.dtype)
        self.bias = None if self.cell.bias is None else tf.cast(self.cell.bias, self.x.dtype)
        # The gradients at the output of each time and at the last states.
        taps = _taps(call)
        by_id = {id(tap): None if d is None else wide(d) for tap, d in zip(taps, deltas)}
        last_output, outputs, last_states = result
        whole = by_id.get(id(outputs)) if layer.return_sequences else None
        self.outputs = None if whole is None else tf.transpose(whole, [1, 0, 2])  # Keras hands them out as they came
        ends = [by_id.get(id(state)) for state in last_states] if layer.return_state else [None] * len(last_states)
        last = None if layer.return_sequences else by_id.get(id(last_output))
        if last is not None and (last_output is not last_states[0] or ends[0] is None):
            ends[0] = last if ends[0] is None else ends[0] + last
        self.ends = [tf.zeros_like(s) if e is None else e for s, e in zip(self.states, ends)]
        if self.mask is not None and self.outputs is not None:
            self.outputs = self._through_masked(self.outputs, layer)

    def _through_masked(self, outputs: tf.Tensor, layer: Any) -> tf.Tensor:
        """Where a time is masked, its output was zero or the one before: carry its gradient to where it came from."""
        if layer.zero_output_for_mask:
            return outputs * self.mask
        # The output at a masked time is the latest unmasked one, or zero before the first. So is the state, but the
        # initial one before the first; for gradients of weights that makes no difference.
        step = lambda s, x: ([(s[0] + x[0]) * (1 - x[1])], [(s[0] + x[0]) * x[1]])  # noqa: E731
        return scan(step, [tf.zeros_like(self.states[0])], [outputs, self.mask], backwards=True)[0]

    def project(self, bias: tf.Tensor | None) -> tf.Tensor:
        """x W + b for all times."""
        z = tf.tensordot(self.x, self.kernel, 1)
        z.set_shape([*self.x.shape[:2], self.kernel.shape[1]])
        return z if bias is None else z + bias

    def dropped(self, h: tf.Tensor) -> tf.Tensor:
        """What of the state the recurrent kernel sees. (LSTM and GRU with recurrent dropout draw a mask per gate: no rule.)"""
        return h if self.recurrent_mask is None else h * self.recurrent_mask

    def forward(self, step: Callable[[Tensors, tf.Tensor], tuple[Tensors, Tensors]], projected: tf.Tensor) -> Tensors:
        """States before each time and what `step` made of them: [T, n, ...] each.

        `step`: (states, slice of `projected`) -> (new states, whatever the way back needs).
        """

        def masked(states: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
            new, made = step(states, xs[0])
            if self.mask is not None:
                new = [old + xs[1] * (fresh - old) for old, fresh in zip(states, new)]
            return new, [*states, *made]

        return scan(masked, self.states, [projected] if self.mask is None else [projected, self.mask])

    def backward(self, step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], xs: Tensors) -> Tensors:
        """Carry gradients back in time. `step`: (d states after, slices of xs) -> (d states before, deltas)."""

        def masked(ends: Tensors, slices: Tensors) -> tuple[Tensors, Tensors]:
            slices, m = (slices, None) if self.mask is None else (slices[:-1], slices[-1])
            slices, at_output = (slices, None) if self.outputs is None else (slices[:-1], slices[-1])
            after = list(ends) if m is None else [m * end for end in ends]
            if at_output is not None:
                after[0] += at_output
            before, deltas = step(after, slices)
            return before if m is None else [b + (1 - m) * e for b, e in zip(before, ends)], deltas

        return scan(masked, list(self.ends), [*xs, *(a for a in (self.outputs, self.mask) if a is not None)], backwards=True)

    def factors(self, h: tf.Tensor, d: tf.Tensor, d_recurrent: tf.Tensor | None = None) -> dict[str, Factor]:
        """From states before each time and deltas at the gates; `d_recurrent`: at the recurrent products, if others."""

        def batch_major(tensor: tf.Tensor) -> tf.Tensor:
            return tf.transpose(tensor, [1, 0, 2])

        d_b = batch_major(d)
        d_r = d_b if d_recurrent is None else batch_major(d_recurrent)
        factors: dict[str, Factor] = {
            "cell.kernel": Outer([batch_major(self.x)], d_b, tuple(self.kernel.shape)),
            "cell.recurrent_kernel": Outer([batch_major(self.dropped(h))], d_r, tuple(self.recurrent.shape)),
        }
        if self.bias is not None:
            sums = tf.reduce_sum(d, 0)
            factors["cell.bias"] = Each.of(
                sums if self.bias.shape.rank == 1 else tf.stack([sums, tf.reduce_sum(d_recurrent, 0)], 1)
            )
        return factors


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """The arguments of an RNN's inner loop."""
    given = dict(zip(("sequences", "initial_state", "mask", "training"), args)) | kwargs
    mask = given.get("mask")
    return (
        given["sequences"],
        given["initial_state"],
        mask[0] if isinstance(mask, (list, tuple)) else mask,
        given.get("training"),
    )


def _lstm_taps(call: Call) -> list[Any]:
    """What all times' gates were given, if the loop is fitcore's own; else as other layers' taps."""
    if "inner_loop" not in call.notes:
        return []
    times = keras_private.lstm_times(call.notes["inner_loop"][1][0])
    if times is None:
        return _taps(call)
    call.notes |= {"before": times.before, "how": "exact"}
    return [times.tap]


def _lstm(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    if "before" in call.notes:  # the deltas are at hand: nothing is run once more
        h, d = (tf.transpose(wide(each), [1, 0, 2]) for each in (call.notes["before"], deltas[0]))
        return _Pass(call, ()).factors(h, d)
    run = _Pass(call, deltas)
    cell, u = run.cell, run.recurrent
    act, gate = cell.activation, cell.recurrent_activation

    def step(states: Tensors, xw: tf.Tensor) -> tuple[Tensors, Tensors]:
        h, c = states
        zi, zf, zg, zo = tf.split(xw + tf.matmul(h, u), 4, axis=1)
        i, f, g, o = apply(gate, zi), apply(gate, zf), apply(act, zg), apply(gate, zo)
        c = f * c + i * g
        y = apply(act, c)
        return [o * y, c], [i, f, g, o, y]

    h, c, i, f, g, o, y = run.forward(step, run.project(run.bias))

    def back(ends: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
        (dh, dc), (through, by_input, by_forget, by_new, by_output, f) = ends, xs
        dc = dc + dh * through
        delta = tf.concat([dc * by_input, dc * by_forget, dc * by_new, dh * by_output], axis=1)
        return [tf.matmul(delta, u, transpose_b=True), dc * f], [delta]

    by_gate = [times_slope(gate, i, g), times_slope(gate, f, c), times_slope(act, g, i), times_slope(gate, o, y)]
    (d,) = run.backward(back, [times_slope(act, y, o), *by_gate, f])
    return run.factors(h, d)


def _gru(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    run = _Pass(call, deltas)
    cell, u = run.cell, run.recurrent
    act, gate = cell.activation, cell.recurrent_activation
    bias_in, bias_rec = (None, 0.0) if run.bias is None else (run.bias[0], run.bias[1])

    def step(states: Tensors, xw: tf.Tensor) -> tuple[Tensors, Tensors]:
        (h,) = states
        xz, xr, xh = tf.split(xw, 3, axis=1)
        rz, rr, rh = tf.split(tf.matmul(h, u) + bias_rec, 3, axis=1)
        z, r = apply(gate, xz + rz), apply(gate, xr + rr)
        new = apply(act, xh + r * rh)
        return [z * h + (1 - z) * new], [z, r, new, rh]

    h, z, r, new, rh = run.forward(step, run.project(bias_in))

    def back(ends: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
        (dh,), (by_update, by_reset, by_product, z) = ends, xs
        delta = tf.concat([dh * by_update, dh * by_reset, dh * by_product], axis=1)
        return [dh * z + tf.matmul(delta, u, transpose_b=True)], [delta, dh]

    by_new = times_slope(act, new, 1 - z)
    d_recurrent, dh = run.backward(back, [times_slope(gate, z, h - new), times_slope(gate, r, by_new * rh), by_new * r, z])
    d = tf.concat([d_recurrent[..., : 2 * cell.units], dh * by_new], axis=2)
    return run.factors(h, d, d_recurrent)


def _simple(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    run = _Pass(call, deltas)
    cell, u = run.cell, run.recurrent

    def step(states: Tensors, xw: tf.Tensor) -> tuple[Tensors, Tensors]:
        y = apply(cell.activation, xw + tf.matmul(run.dropped(states[0]), u))
        return [y], [y]

    h, y = run.forward(step, run.project(run.bias))

    def back(ends: Tensors, xs: Tensors) -> tuple[Tensors, Tensors]:
        delta = times_slope(cell.activation, xs[0], ends[0])
        return [run.dropped(tf.matmul(delta, u, transpose_b=True))], [delta]

    (d,) = run.backward(back, [y])
    return run.factors(h, d)


def _taps(call: Call) -> list[Any]:
    """Each output of the inner loop that the layer hands out, once."""
    if "inner_loop" not in call.notes:
        return []
    _, (last_output, outputs, states) = call.notes["inner_loop"]
    taps = [outputs if call.layer.return_sequences else last_output, *(states if call.layer.return_state else ())]
    return list({id(tap): tap for tap in taps}.values())


def _applies(call: Call) -> bool:
    """Keras's own cell in its usual form, and dropout masks that are the same for all gates."""
    cell, arguments = call.layer.cell, call.notes.get("inner_loop")
    if arguments is None or getattr(cell, "reset_after", True) is False:
        return False
    functions = [cell.activation, getattr(cell, "recurrent_activation", keras.activations.linear)]
    mask = _arguments(*arguments[0])[2]
    masks = call.notes["dropout_masks"]
    return (
        all(f in ELEMENTWISE for f in functions)
        and (mask is None or mask.shape.rank == 2)
        and not any(isinstance(m, list) for m in masks)
    )


_WEIGHTS = ("cell.kernel", "cell.recurrent_kernel", "cell.bias")
for kind, taps, factors in ((layers.LSTM, _lstm_taps, _lstm), (layers.GRU, _taps, _gru), (layers.SimpleRNN, _taps, _simple)):
    add(Rule(kind, _WEIGHTS, taps, factors, ("inner_loop",), _applies, "exact, from the cell run once more"))
