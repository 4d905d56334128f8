"""What TensorFlow knows of its ops and of the kernels that it has for them."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.util import _pywrap_util_port

_ONEDNN = "MklNameChangeOp"  # the label of oneDNN's kernels for ops of TensorFlow's own memory layout


@functools.cache
def registered_kernels(op: str) -> Sequence[Any]:
    """The KernelDefs of an op, for all kinds of device: a wheel built for GPUs registers theirs on any machine.

    Why: there is no public way to ask, and it is what decides where an op runs (TensorFlow >= 1.15).
    """
    return tuple(kernels.get_registered_kernels_for_op(op).kernel)


@functools.cache
def op_definition(op: str) -> Any:
    """The OpDef of an op, None of an unknown one.

    Why: it names the arguments that a KernelDef speaks of; public names give it only once an op was made (TensorFlow >= 2.0).
    """
    return op_def_registry.get(op)


@functools.cache
def has_onednn(op: str) -> bool:
    """Whether this TensorFlow has oneDNN's kernel of an op, such as "Conv2D", for float32 on an x86 CPU.

    Why: as for `registered_kernels`. The wheels for x86 have them on every CPU, used or not (TensorFlow >= 2.5).
    """
    found = registered_kernels(f"_MklNative{op}")
    return platform.machine() in ("x86_64", "AMD64") and any(
        each.label == _ONEDNN and each.device_type == "CPU" and tf.float32 in each.constraint[0].allowed_values.list.type
        for each in found
    )


@functools.cache
def onednn_is_on() -> bool:
    """Whether TensorFlow puts oneDNN's kernels in place of its own in every graph of this process.

    Why: it decides so by the CPU and by TF_ENABLE_ONEDNN_OPTS when it is loaded, and has no public getter (TensorFlow >= 2.5).
    """
    return bool(_pywrap_util_port.IsMklEnabled())


def onednn(op: str, inputs: Sequence[tf.Tensor], **attributes: Any) -> list[tf.Tensor]:
    """The outputs of an op, of float32 tensors, by oneDNN's kernel. In a graph only; a tape sees no gradient.

    Why: TensorFlow puts these ops in place of its own for a whole process or nowhere (TF_ENABLE_ONEDNN_OPTS, off by default
    on CPUs without instructions for neural networks); it has no public name for one of them (TensorFlow >= 2.5).

    Args:
      op: as the public op is called: "Conv2D".
      inputs: its inputs.
      attributes: its attributes: bools, floats, strings and lists of ints.
    """
    values = {name: _attribute(value) for name, value in attributes.items()}
    values |= {each: tf.compat.v1.AttrValue(type=tf.float32.as_datatype_enum) for each in _types(f"_MklNative{op}")}
    values["_kernel"] = tf.compat.v1.AttrValue(s=_ONEDNN.encode())
    made = tf.compat.v1.get_default_graph().create_op(f"_MklNative{op}", list(inputs), None, attrs=values, name=f"onednn/{op}")
    return list(made.outputs)


def _types(op: str) -> list[str]:
    return [each.name for each in op_definition(op).attr if each.type == "type"]


def _attribute(value: Any) -> Any:
    match value:
        case bool():
            return tf.compat.v1.AttrValue(b=value)
        case float():
            return tf.compat.v1.AttrValue(f=value)
        case str():
            return tf.compat.v1.AttrValue(s=value.encode())
    return tf.compat.v1.AttrValue(list=tf.compat.v1.AttrValue.ListValue(i=value))
