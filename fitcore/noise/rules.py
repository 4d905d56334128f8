"""Per-example gradients of Keras's dense, embedding and normalization layers.

Each needs the layer's input a and delta, the gradient at its pre-activation or output, both of which the one backward
pass has anyway.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import layers

from fitcore.keras_private import BATCH_MOMENTS
from fitcore.noise.calls import RULES, Call, Rule
from fitcore.noise.factors import Each, Factor, Outer, Plain, Rows, wide


def add(rule: Rule) -> None:
    """Register a rule."""
    RULES[rule.layer] = rule


def flat_time(tensor: tf.Tensor, features: int) -> tf.Tensor:
    """[n, ..., features] as [n, T, features]; [n, features] as it is."""
    if tensor.shape.rank <= 2:
        return tensor
    time = tensor.shape[1:-1]
    return (
        tf.reshape(tensor, [-1, time.num_elements(), features]) if time.is_fully_defined() else _dynamic_time(tensor, features)
    )


def _dynamic_time(tensor: tf.Tensor, features: int) -> tf.Tensor:
    return tf.reshape(tensor, [tf.shape(tensor)[0], -1, features])


def over_positions(tensor: tf.Tensor, kept: Sequence[int]) -> tf.Tensor:
    """Summed over all axes but the first and `kept`, those in their order."""
    tensor = wide(tensor)
    axes = [axis for axis in range(1, tensor.shape.rank) if axis not in kept]
    return tf.reduce_sum(tensor, axes) if axes else tensor


# --- dense ----------------------------------------------------------------------------------------------------------------


def _dense(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    (d,), a = deltas, call.inputs
    p, q = call.layer.kernel.shape
    factors: dict[str, Factor] = {"kernel": Outer([flat_time(a, p)], flat_time(d, q), (p, q))}
    return factors | {"bias": Plain(d) if d.shape.rank == 2 else Each.of(over_positions(d, [d.shape.rank - 1]))}


add(
    Rule(
        layers.Dense,
        ("kernel", "bias"),
        taps=lambda call: [call.pre_activation],
        factors=_dense,
        watch=("activation",),
        applies=lambda call: isinstance(call.inputs, tf.Tensor),
    )
)


def _einsum_labels(call: Call) -> tuple[str, str, str] | None:
    """(input, kernel, output) labels, an ellipsis written out; None if the equation is of another kind."""
    sides = call.layer.equation.replace(" ", "").split("->")
    if len(sides) != 2 or sides[0].count(",") != 1 or not isinstance(call.inputs, tf.Tensor):
        return None
    (inputs, kernel), output = sides[0].split(","), sides[1]
    if "..." in kernel or ("..." in inputs) != ("..." in output):
        return None
    if "..." in inputs:
        extra = call.inputs.shape.rank - len(inputs.replace("...", ""))
        fresh = "".join(c for c in string.ascii_letters if c not in call.layer.equation)[:extra]
        inputs, output = inputs.replace("...", fresh), output.replace("...", fresh)
    batch = inputs[:1]
    repeated = any(len(set(labels)) < len(labels) for labels in (inputs, kernel, output))
    summed = set(inputs) - set(kernel) - set(output)
    return None if repeated or summed or batch != output[:1] or batch in kernel else (inputs, kernel, output)


def _einsum(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    (d,), a, layer = deltas, wide(call.inputs), call.layer
    labels = _einsum_labels(call)
    assert labels is not None
    inputs, kernel, output = labels
    d, shape = wide(d), tuple(layer.kernel.shape)
    sizes = dict(zip(kernel, shape))
    ins, outs = [c for c in kernel if c not in output], [c for c in kernel if c not in inputs]
    times = [c for c in inputs[1:] if c not in kernel]
    factor: Factor
    if len(ins) + len(outs) == len(kernel) and sorted(times) == sorted(c for c in output[1:] if c not in kernel):
        p, q = [1 if not c else math.prod(sizes[i] for i in c) for c in (ins, outs)]
        a = tf.transpose(a, [inputs.index(c) for c in (inputs[0], *times, *ins)])
        d_out = tf.transpose(d, [output.index(c) for c in (output[0], *times, *outs)])
        time = math.prod(call.inputs.shape[inputs.index(c)] or -1 for c in times)
        time = time if time > 0 else -1
        n = tf.shape(a)[0] if time < 0 else -1
        pair = [tf.reshape(t, [n, time, k] if times else [-1, k]) for t, k in ((a, p), (d_out, q))]
        order = tuple([*ins, *outs].index(c) for c in kernel)
        factor = Outer([pair[0]], pair[1], shape, tuple(sizes[c] for c in (*ins, *outs)), order)
    else:  # an axis that inputs, kernel and outputs share: no outer product, but still one einsum
        equation = f"{inputs},{output}->{inputs[0]}{kernel}"
        factor = Each(lambda: tf.einsum(equation, a, d), 8 * math.prod(shape))
    factors: dict[str, Factor] = {"kernel": factor}
    if layer.bias is not None:
        bias = [c for c in layer.bias_axes if c != "."]
        summed = tf.einsum(f"{output}->{output[0]}{''.join(bias)}", d)
        factors["bias"] = Each(lambda: tf.reshape(summed, [-1, *layer.bias.shape]), 4 * math.prod(layer.bias.shape))
    return factors


add(
    Rule(
        layers.EinsumDense,
        ("kernel", "bias"),
        taps=lambda call: [call.pre_activation],
        factors=_einsum,
        watch=("activation",),
        applies=lambda call: _einsum_labels(call) is not None,
    )
)


# --- embeddings -----------------------------------------------------------------------------------------------------------


def _embedding(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    (d,), ids = deltas, call.inputs
    shape = tuple(call.layer.embeddings.shape)
    ids = tf.cast(ids, tf.int64)  # of int32 TensorFlow compares on the host
    d = flat_time(d if d.shape.rank > 2 else d[:, None, :], shape[1])
    time = d.shape[1]
    return {"embeddings": Rows(tf.reshape(ids, [-1, time] if time else [tf.shape(d)[0], -1]), d, shape)}


add(
    Rule(
        layers.Embedding,
        ("embeddings",),
        taps=lambda call: [call.output],
        factors=_embedding,
        applies=lambda call: isinstance(call.inputs, tf.Tensor),
    )
)


# --- normalization: output = x^ * scale + offset ----------------------------------------------------------------------------


def _axes(axis: Any, rank: int) -> list[int]:
    return [a % rank for a in (axis if isinstance(axis, (list, tuple)) else [axis])]


def _standardized(x: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, axes, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + epsilon)


def _scale_and_offset(x_hat: tf.Tensor, d: tf.Tensor, kept: Sequence[int], scale: str, offset: str) -> dict[str, Factor]:
    d = wide(d)
    return {scale: Each.of(over_positions(x_hat * d, kept)), offset: Each.of(over_positions(d, kept))}


def _layer_norm(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    x, kept = wide(call.inputs), _axes(call.layer.axis, call.inputs.shape.rank)
    return _scale_and_offset(_standardized(x, kept, call.layer.epsilon), deltas[0], kept, "gamma", "beta")


def _rms_norm(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    x, kept = wide(call.inputs), _axes(call.layer.axis, call.inputs.shape.rank)
    x_hat = x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), kept, keepdims=True) + call.layer.epsilon)
    return {"scale": Each.of(over_positions(x_hat * wide(deltas[0]), kept))}


def _group_norm(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    x, layer = wide(call.inputs), call.layer
    rank = x.shape.rank
    (channel,) = _axes(layer.axis, rank)
    last = [axis for axis in range(rank) if axis != channel] + [channel]
    x, d = tf.transpose(x, last), tf.transpose(wide(deltas[0]), last)
    channels = x.shape[-1]
    groups = tf.reshape(x, [tf.shape(x)[0], -1, layer.groups, channels // layer.groups])
    x_hat = tf.reshape(_standardized(groups, [1, 3], layer.epsilon), tf.shape(x))
    x_hat.set_shape(x.shape)
    return _scale_and_offset(x_hat, d, [rank - 1], "gamma", "beta")


def _batch_norm(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    x, layer = wide(call.inputs), call.layer
    kept = _axes(layer.axis, x.shape.rank)
    # The layer's own moments: of the unmasked rows, and of all replicas' where it is `synchronized`.
    _, moments = call.notes[BATCH_MOMENTS]
    mean, variance = (tf.reshape(wide(m), [x.shape[a] if a in kept else 1 for a in range(x.shape.rank)]) for m in moments)
    x_hat = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
    return _scale_and_offset(x_hat, deltas[0], kept, "gamma", "beta")


def _batch_norm_applies(call: Call) -> bool:
    return BATCH_MOMENTS in call.notes and not getattr(call.layer, "renorm", False)


NORM_TAPS = lambda call: [call.output]  # noqa: E731
add(
    Rule(
        layers.LayerNormalization,
        ("gamma", "beta"),
        NORM_TAPS,
        _layer_norm,
        applies=lambda call: not getattr(call.layer, "rms_scaling", False),
    )
)
add(Rule(layers.RMSNormalization, ("scale",), NORM_TAPS, _rms_norm))
add(Rule(layers.GroupNormalization, ("gamma", "beta"), NORM_TAPS, _group_norm))
add(
    Rule(
        layers.BatchNormalization,
        ("gamma", "beta"),
        NORM_TAPS,
        _batch_norm,
        watch=(BATCH_MOMENTS,),
        applies=_batch_norm_applies,
        label="exact, the batch's statistics taken as constants",
        whole_batch=True,
    )
)
