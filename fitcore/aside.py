"""What only watches a step, kept apart from it: it reads what the training computes, and changes no bit of it.

TensorFlow's optimizer decides by who reads a tensor. A product, its bias and its activation become one kernel, with other last
bits, only if nobody else reads what is between them; a * b * rate is multiplied in another order if nobody else reads a * b;
and two equal ops become one, which then has the readers of both. So each op that watches reads what it reads

  - by way of an `EnsureShape`, which TensorFlow leaves in place: no op that watches is equal to one of the training. Each is
    marked too, for those that read nothing: of two equal numbers TensorFlow keeps one, and adds terms in the order of names;
  - from a tensor that the training itself reads twice. A further reader then changes nothing: see `_Reads.safe`;
  - else from what the training makes of the tensor by moving its values only (a reshape, a transpose), moved back;
  - else from the same op, made once more.

All of it happens when the whole step has been traced and all of its readers are known: `settle`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from fitcore import keras_private, python_draws
from fitcore.tracing import for_xla

_SCOPE, _READ = "aside", "aside_read"
_NAMED = re.compile(rf"(^|/)({_SCOPE}|{_READ})(_\d+)?(/|$)")

_PASSED_ON = {"Identity", "StopGradient", "PreventGradient"}  # TensorFlow removes these
_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}  # and these, where shapes are known
_MOVED = {"Reshape", "ExpandDims", "Squeeze", "Transpose"}
_SOURCES = {"Const", "Placeholder", "PlaceholderWithDefault", "ReadVariableOp"}
_ACTIVATIONS = {"Relu", "Relu6", "Elu", "LeakyRelu", "Tanh", "Sigmoid", "Softplus", "Erf", "Erfc", "Maximum"}
_AFTER_A_PRODUCT = {"BiasAdd", "BiasAddV1", "Squeeze", "FusedBatchNormV3", *_ACTIVATIONS}
# Ops that take long, so that they are made once more only where they would be a part of something fused.
_PRODUCTS = re.compile("MatMul|^Conv|^DepthwiseConv|Einsum|Backprop|BiasAddGrad|^Sum$|^Mean$|FusedBatchNorm|Pool|SegmentSum")
_NEVER_FUSED = re.compile("^(TensorList|(Stateless)?While|(Stateless)?If|PartitionedCall|StatefulPartitioned|Assign|Resource)")


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Around what only watches, while a step is traced. What checks all ops, such as
    `tf.debugging.enable_check_numerics`, checks the training and not these: a NaN of theirs says "not measured". What is drawn
    here while Python traces it is not drawn from the training's generators.
    """
    with tf.name_scope(_SCOPE), keras_private.no_op_callbacks(), python_draws.kept():
        yield


def settle(kept: Any, watched: Any) -> Any:
    """Keep what watches apart, once all of a step has been traced. Does nothing where there is no graph, or XLA makes of it
    what it likes.

    Args:
      kept: what the step returns of the training itself; a nest of tensors.
      watched: what it returns of what watches.

    Returns:
      `watched`, where it has a tensor of the training itself with a read of it in its place.
    """
    if tf.executing_eagerly() or for_xla.get():
        return watched
    graph = tf.compat.v1.get_default_graph()
    aside = {op for op in graph.get_operations() if _NAMED.search(op.name)}
    results = [t.op for t in tf.nest.flatten(kept) if isinstance(t, tf.Tensor) and t.graph is graph]
    seen = [t.op for t in tf.nest.flatten(watched) if isinstance(t, tf.Tensor) and t.graph is graph]
    acting = [op for op in graph.get_operations() if op.op_def.is_stateful]
    live = _needed([*results, *(op for op in acting if op not in aside)], stop=aside)
    reads = _Reads(graph, live, {op for op in results if op not in aside})
    watchers = _needed([*seen, *results, *acting], stop=set()) - live
    for op in sorted(watchers, key=lambda op: op.name):
        if _READ in op.name:
            continue  # of a step before, in the same graph
        for index, tensor in enumerate(op.inputs):
            if tensor.op in live and _is_value(tensor):
                keras_private.read_instead(op, index, reads.of(tensor))

    def read(value: Any) -> Any:
        there = isinstance(value, tf.Tensor) and value.graph is graph and value.op in live and _is_value(value)
        return reads.of(value) if there else value

    read_aside = tf.nest.map_structure(read, watched)
    for op in (*watchers, *reads.ops()):
        keras_private.make_unlike(op)
    return read_aside


def _needed(ops: Iterable[Any], stop: set[Any]) -> set[Any]:
    """These ops and all that they need, those in `stop` and what only they need left out."""
    found: set[Any] = set()
    unseen = [op for op in ops if op not in stop]
    while unseen:
        op = unseen.pop()
        if op not in found:
            found.add(op)
            unseen += [o for o in (*(t.op for t in op.inputs), *op.control_inputs) if o not in found and o not in stop]
    return found


def _is_value(tensor: tf.Tensor) -> bool:
    return tensor.op.type != "Const" and tensor.dtype not in (tf.resource, tf.variant)


class _Reads:
    """Reads of a training's tensors by those who watch, each made once.

    Args:
      graph: the step's.
      live: the training's ops.
      results: those whose outputs the step returns.
    """

    def __init__(self, graph: tf.Graph, live: set[Any], results: set[Any]) -> None:
        self._graph, self._live, self._results = graph, live, results
        self._made: dict[str, tf.Tensor] = {}

    def of(self, tensor: tf.Tensor) -> tf.Tensor:
        """The same value, for those who watch."""
        if tensor.name not in self._made:
            place, name = tf.device(tensor.op.device or None), tf.name_scope(_READ)
            with tf.control_dependencies(None), place, name, keras_private.no_op_callbacks():
                self._made[tensor.name] = self._read(tensor)
        return self._made[tensor.name]

    def ops(self) -> list[Any]:
        """The ops that were made for them."""
        return [op for op in self._graph.get_operations() if _READ in op.name]

    def _read(self, tensor: tf.Tensor) -> tf.Tensor:
        if not _is_value(tensor):
            return tensor
        if self.safe(tensor):
            return tf.ensure_shape(tensor, tensor.shape)
        back = self._moved_back(tensor)
        return self._once_more(tensor) if back is None else back

    def safe(self, tensor: tf.Tensor) -> bool:
        """Whether one reader more changes nothing: others read it too, or nothing could be fused with what it comes from."""
        op = tensor.op
        if op.type in _SOURCES or op.op_def.is_stateful or _runs_functions(op):
            return True
        readers = self._readers(tensor)
        if len(readers) != 1:
            return True
        (reader,) = readers.values()
        if reader is None or _NEVER_FUSED.search(reader.type):
            return True
        if not _PRODUCTS.search(op.type):
            return False
        while reader.type in _MOVED:  # TensorFlow may find that nothing is to be moved
            readers = self._readers(reader.outputs[0])
            if len(readers) != 1 or None in readers.values():
                return True
            (reader,) = readers.values()
        if reader.type in ("Add", "AddV2"):  # of a bias
            return all(t.shape.rank is not None and t.shape.rank > 1 for t in reader.inputs)
        if reader.type == "Mul" and op.type.startswith("BatchMatMul"):  # and of a mask
            return not any("Add" in after.type for after in reader.outputs[0].consumers())
        return reader.type not in _AFTER_A_PRODUCT

    def _readers(self, tensor: tf.Tensor) -> dict[Any, Any]:
        """The training's ops that read its values; None for what the step returns. Equal ones count once: TensorFlow makes them
        one."""
        found: dict[Any, Any] = {}
        if tensor.op in self._results:
            found["returned"] = None
        for op in tensor.consumers():
            if op not in self._live or op.type in _SHAPES:
                continue
            if op.type in _PASSED_ON:
                found |= self._readers(op.outputs[0])
            else:
                node = op.node_def
                attributes = sorted((name, value.SerializeToString()) for name, value in node.attr.items())
                found[op.type, tuple(t.name for t in op.inputs), tuple(attributes)] = op
        return found

    def _moved_back(self, tensor: tf.Tensor) -> tf.Tensor | None:
        """What the only reader, which moves values but doesn't change them, made of it: moved back; None if that can't be."""
        (reader,) = self._readers(tensor).values()
        if reader.type not in _MOVED:
            return None
        source = reader.inputs[0]
        while source.op.type in _PASSED_ON and source.name != tensor.name:
            source = source.op.inputs[0]
        if source.name != tensor.name:  # it says how the others are moved
            return None
        moved = reader.outputs[0]
        there = self.of(moved) if self.safe(moved) else self._moved_back(moved)
        if there is None:
            return None
        if reader.type == "Transpose":
            order = tf.get_static_value(reader.inputs[1])
            return None if order is None else tf.transpose(there, np.argsort(order))
        shape = tensor.shape
        if shape.rank is None or sum(size is None for size in shape) > 1:
            return None
        return tf.reshape(there, [-1 if size is None else size for size in shape])

    def _once_more(self, tensor: tf.Tensor) -> tf.Tensor:
        """The same op again, of the same inputs read apart."""
        op = tensor.op
        inputs = [self.of(each) for each in op.inputs]
        attributes = {name: value for name, value in op.node_def.attr.items() if not name.startswith("_")}
        again = self._graph.create_op(op.type, inputs, [t.dtype for t in op.outputs], attrs=attributes, name=op.type)
        again.outputs[tensor.value_index].set_shape(tensor.shape)
        return again.outputs[tensor.value_index]


def _runs_functions(op: Any) -> bool:
    return any(value.WhichOneof("value") == "func" for value in op.node_def.attr.values())
