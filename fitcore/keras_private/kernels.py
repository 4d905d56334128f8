"""What TensorFlow knows of its ops and of the kernels that it has for them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tensorflow.python.framework import kernels, op_def_registry


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
