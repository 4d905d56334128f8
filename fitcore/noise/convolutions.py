"""Per-example gradients of convolutions: a dense layer over patches, one block of the patch for each kernel position.

The patch at kernel position k is the padded input, shifted by k and strided: a slice. `J_i[k] = sum over output positions
of slice_k(x)_i delta_i^T`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from fitcore.noise.calls import Call, Rule
from fitcore.noise.factors import Each, Factor, Outer, wide
from fitcore.noise.rules import add, over_positions
from fitcore.tracing import for_xla

SIDE_BY_SIDE = 4 << 20  # bytes of patches: beyond, XLA takes a product for each row of the kernel
FEW_CHANNELS = 64  # up to so many values per patch the shifted slices are put side by side: one large product beats many small


def channels_last(tensor: tf.Tensor, layer: Any) -> tf.Tensor:
    """[n, *space, channels], in float32 at least."""
    tensor = wide(tensor)
    if layer.data_format == "channels_last":
        return tensor
    rank = tensor.shape.rank
    return tf.transpose(tensor, [0, *range(2, rank), 1])


def per_dim(value: Any, dims: int) -> tuple[int, ...]:
    """One value for each dimension, as layers take them."""
    return (value,) * dims if isinstance(value, int) else tuple(value)


def shifted(
    x: tf.Tensor,
    out: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
    fill: float = 0.0,
) -> list[tf.Tensor]:
    """What each kernel position sees of x [n, *space, c]: [n, *out, c], in the order of the kernel's rows.

    Args:
      x: the inputs.
      out: how far the outputs reach in each dimension: ints or tensors.
      kernel, strides, dilation: in each dimension.
      padding: "valid", "same" or "causal".
      fill: what is padded with.
    """
    dims = x.shape.rank - 2
    if padding != "valid":
        pads: list[Any] = [[0, 0]]
        for i in range(dims):
            size = x.shape[1 + i] or tf.shape(x)[1 + i]
            if padding == "causal":
                pads.append([dilation[i] * (kernel[i] - 1), 0])
            else:
                needed = (out[i] - 1) * strides[i] + (kernel[i] - 1) * dilation[i] + 1 - size
                total = max(needed, 0) if isinstance(needed, int) else tf.maximum(needed, 0)
                pads.append([total // 2, total - total // 2])
        x = tf.pad(x, [*pads, [0, 0]], constant_values=fill)
    slices = []
    for position in itertools.product(*map(range, kernel)):
        starts = [k * step for k, step in zip(position, dilation)]
        cut = [slice(s, s + (o - 1) * stride + 1, stride) for s, o, stride in zip(starts, out, strides)]
        index = (slice(None), *cut)
        slices.append(x[index])
    return slices


def patches(seen: Sequence[tf.Tensor], rows: int) -> list[tf.Tensor]:
    """What `shifted` gives, of known shape, as few matrices [n, P, width]: one, or one for each of the kernel's `rows`."""
    values = sum(each.shape.num_elements() for each in seen)
    many = values * seen[0].dtype.size > SIDE_BY_SIDE and len(seen) * seen[0].shape[-1] > FEW_CHANNELS
    each = len(seen) // rows if many else len(seen)
    return [_positions(tf.concat(seen[start : start + each], axis=-1)) for start in range(0, len(seen), each)]


def _seen(x: tf.Tensor, d: tf.Tensor, layer: Any) -> list[tf.Tensor]:
    """What each position of the layer's kernel sees of its inputs x, where its outputs have the gradient d."""
    dims = x.shape.rank - 2
    out = [d.shape[1 + i] or tf.shape(d)[1 + i] for i in range(dims)]
    size, strides, dilation = (per_dim(value, dims) for value in (layer.kernel_size, layer.strides, layer.dilation_rate))
    return shifted(x, out, size, strides, dilation, layer.padding)


def _positions(tensor: tf.Tensor) -> tf.Tensor:
    """[n, *space, c] as [n, P, c]."""
    space, channels = tensor.shape[1:-1], tensor.shape[-1]
    if space.is_fully_defined():
        return tf.reshape(tensor, [-1, space.num_elements(), channels])
    return tf.reshape(tensor, [tf.shape(tensor)[0], -1, channels])


def _upright(tensor: tf.Tensor) -> tf.Tensor:
    """[n, *space, c] as [n, c, P]; with one channel no value moves."""
    if tensor.shape[-1] == 1:
        positions = _positions(tensor)
        return tf.reshape(positions, [-1, 1, positions.shape[1]]) if positions.shape[1] else tf.transpose(positions, [0, 2, 1])
    return tf.transpose(_positions(tensor), [0, 2, 1])


def _conv(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    layer = call.layer
    x, d = channels_last(call.inputs, layer), channels_last(deltas[0], layer)
    shape = tuple(layer.kernel.shape)
    slices = _seen(x, d, layer)
    factor: Factor
    if layer.groups == 1:
        if for_xla.get() and all(each.shape.is_fully_defined() for each in slices):  # as the layer's output was computed
            factor = Outer(patches(slices, shape[0]), _positions(d), shape)
        elif len(slices) * shape[-2] <= FEW_CHANNELS:
            upright = tf.concat([_upright(s) for s in slices], axis=1)
            factor = Outer([upright], _positions(d), shape, upright=True)
        else:
            factor = Outer([_positions(s) for s in slices], _positions(d), shape)
    else:
        g, per_in, per_out = layer.groups, shape[-2], shape[-1] // layer.groups

        def make() -> tf.Tensor:
            each = [_grouped(_positions(s), _positions(d), g, per_in, per_out) for s in slices]
            return tf.reshape(tf.stack(each, axis=1), [-1, *shape])

        factor = Each(make, 12 * _size(shape))
    return {"kernel": factor, "bias": Each.of(over_positions(d, [d.shape.rank - 1]))}


def _size(shape: Sequence[int]) -> int:
    size = 1
    for d in shape:
        size *= int(d)
    return size


def _grouped(a: tf.Tensor, d: tf.Tensor, groups: int, p: int, q: int) -> tf.Tensor:
    """[n, p, groups * q]: each group of input channels with its group of output channels."""
    time = a.shape[1] or -1
    n = -1 if a.shape[1] else tf.shape(a)[0]
    products = tf.einsum("ntgp,ntgq->npgq", tf.reshape(a, [n, time, groups, p]), tf.reshape(d, [n, time, groups, q]))
    return tf.reshape(products, [-1, p, groups * q])


def _depthwise_kernel(slices: list[tf.Tensor], d: tf.Tensor, shape: tuple[int, ...]) -> Factor:
    """The kernel [*size, c, m] of a depthwise convolution whose outputs [n, *space, c * m] have the gradient d."""
    channels, multiplier = shape[-2:]

    def make() -> tf.Tensor:
        space = list(range(1, d.shape.rank - 1))
        per_position = []
        for s in slices:
            if multiplier == 1:
                per_position.append(tf.reduce_sum(s * d, space))
            else:
                split = tf.reshape(d, tf.concat([tf.shape(d)[:-1], [channels, multiplier]], 0))
                per_position.append(tf.reduce_sum(s[..., None] * split, space))
        return tf.reshape(tf.stack(per_position, axis=1), [-1, *shape])

    positions = d.shape[1:-1].num_elements() or 1
    return Each(make, 4 * _size(shape) + 8 * positions * channels * multiplier)


def _depthwise(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    layer = call.layer
    x, d = channels_last(call.inputs, layer), channels_last(deltas[0], layer)
    kernel = _depthwise_kernel(_seen(x, d, layer), d, tuple(layer.kernel.shape))
    return {"kernel": kernel, "bias": Each.of(over_positions(d, [d.shape.rank - 1]))}


def _separable(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
    layer = call.layer
    x, d = channels_last(call.inputs, layer), channels_last(deltas[0], layer)
    depthwise, pointwise = tf.cast(layer.depthwise_kernel, x.dtype), tf.cast(layer.pointwise_kernel, x.dtype)
    middle = keras.ops.depthwise_conv(
        x,
        depthwise,
        strides=layer.strides,
        padding=layer.padding,
        data_format="channels_last",
        dilation_rate=layer.dilation_rate,
    )
    p, q = pointwise.shape[-2:]
    d_middle = tf.tensordot(d, tf.reshape(pointwise, [p, q]), [[-1], [1]])
    d_middle.set_shape([*d.shape[:-1], p])
    return {
        "depthwise_kernel": _depthwise_kernel(_seen(x, d, layer), d_middle, tuple(layer.depthwise_kernel.shape)),
        "pointwise_kernel": Outer([_positions(middle)], _positions(d), tuple(layer.pointwise_kernel.shape)),
        "bias": Each.of(over_positions(d, [d.shape.rank - 1])),
    }


def _tensor_in(call: Call) -> bool:
    return isinstance(call.inputs, tf.Tensor)


for kind in (layers.Conv1D, layers.Conv2D, layers.Conv3D):
    add(Rule(kind, ("kernel", "bias"), lambda call: [call.pre_activation], _conv, ("activation",), _tensor_in))
for kind in (layers.DepthwiseConv1D, layers.DepthwiseConv2D):
    add(Rule(kind, ("kernel", "bias"), lambda call: [call.pre_activation], _depthwise, ("activation",), _tensor_in))
for kind in (layers.SeparableConv1D, layers.SeparableConv2D):
    weights = ("depthwise_kernel", "pointwise_kernel", "bias")
    add(Rule(kind, weights, lambda call: [call.pre_activation], _separable, ("activation",), _tensor_in))
