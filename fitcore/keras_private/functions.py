"""TensorFlow's functions."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_callbacks
from tensorflow.python.framework.none_tensor import NoneTensorSpec as NoneTensorSpec

# `NoneTensorSpec` is what a dataset's `element_spec` has where its elements have None. Why: it has no public name
# (TensorFlow >= 2.3).


def element_spec(iterator_spec: tf.data.IteratorSpec) -> Any:
    """Spec of the elements of such an iterator. Why: only the iterator itself says so in public (TensorFlow >= 2.0)."""
    return iterator_spec._element_spec


def called(function: Any, *arguments: Any) -> Any:
    """What a concrete function returns for these arguments: nests of tensors of the traced specs, without dicts of several.

    Why: the public call compares each argument with its spec and casts it, 0.3 ms for the inner loop's, which a short fit has
    nothing to set against. `_call_flat` is what comes after that (TensorFlow >= 2.1).
    """
    return function._call_flat(tf.nest.flatten(arguments), function.captured_inputs)


@dataclass(frozen=True)
class Captured:
    """A variable that a traced function reads or writes, as its handle: who made it needn't be known."""

    handle: tf.Tensor
    dtype: tf.DType

    def read(self) -> tf.Tensor:
        """Its value. Nothing is copied until the variable gets another one."""
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)

    def assign(self, value: tf.Tensor) -> None:
        """Give it this value."""
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=value)


def captured_handles(function: Any) -> list[Captured]:
    """The variables that a concrete function reads or writes, functions called by it included, each once.

    Why: the public `variables` leaves out those that aren't trained and those that are only written. A handle says what dtype
    its variable has in `_handle_data` alone (TensorFlow >= 2.0).
    """
    found: dict[int, Captured] = {}
    for handle in function.captured_inputs:
        data = getattr(handle, "_handle_data", None)
        if handle.dtype == tf.resource and data is not None and data.is_set and len(data.shape_and_type) == 1:
            found[id(handle)] = Captured(handle, tf.as_dtype(data.shape_and_type[0].dtype))
    return list(found.values())


def captured_by(graph: tf.Graph) -> list[Captured]:
    """The same for a function's graph. Why: `external_captures` is public in name, its class is not (TensorFlow >= 2.0)."""
    return captured_handles(types.SimpleNamespace(captured_inputs=graph.external_captures))


def untraced(function: Any) -> Callable[[], None]:
    """Makes a `tf.function` that has not been called yet, for an object that it is a method of or at all, such a one again.

    Why: its first call decides which variables are its own, and that is kept in private attributes; for each object whose
    method it is there is a function of its own (TensorFlow >= 2.14).
    """
    before = dict(vars(function))
    of_objects = {id(bound): untraced(bound) for bound in function._descriptor_cache.values()}

    def forget() -> None:
        for owner, bound in list(function._descriptor_cache.items()):
            if id(bound) in of_objects:
                of_objects[id(bound)]()
            else:
                del function._descriptor_cache[owner]
        if before["_variable_creation_config"] is None:
            vars(function).clear()
            vars(function).update(before)
            function._function_cache.clear()

    return forget


def ops_are_watched() -> bool:
    """Whether `tf.debugging.enable_check_numerics` or `enable_dump_debug_info` puts an op of its own behind each op.

    Why: there is no public getter (TensorFlow >= 2.2).
    """
    return bool(op_callbacks.should_invoke_op_callbacks())
