"""Per-example gradients of any layer: its own vector-Jacobian product, row by row, vectorized.

The layer's call is made again for each row, from the inputs it had and the gradient at its outputs; no other layer is run.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise.calls import Call
from fitcore.noise.factors import Each, Factor


def taps(call: Call) -> list[tf.Tensor]:
    """The float tensors that the layer returned."""
    return [t for t in keras.tree.flatten(call.output) if isinstance(t, tf.Tensor) and t.dtype.is_floating]


def why_not(call: Call, batch: int | None, ops: Sequence[Any]) -> str | None:
    """Why a row's gradient can't be had by calling the layer on that row alone; None if it can."""
    kinds = _kinds(ops[call.first_op : call.last_op])
    if any("Random" in kind for kind in kinds):
        return "it draws random numbers, which would be drawn anew"
    acting = sorted(kind for kind in kinds if _acts(kind))
    if acting:
        return f"each call of it changes something ({', '.join(acting)})"
    norms = [inner for inner in keras_private.all_layers(call.layer) if isinstance(inner, keras.layers.BatchNormalization)]
    if norms and any(inner.trainable for inner in norms):
        return "it holds a BatchNormalization, which needs the whole batch"
    if call.adds_loss:
        return "it calls add_loss"
    outputs = taps(call)
    if not outputs or any(not t.shape.rank or t.shape[0] != batch for t in outputs):
        return "its outputs don't have the batch's rows"
    return None


def _acts(kind: str) -> bool:
    """Whether such an op does more than compute: assigns to a variable, prints, calls Python."""
    definition = keras_private.op_definition(kind)
    return definition is not None and definition.is_stateful and kind not in _HARMLESS


# Stateful in TensorFlow's eyes: they read variables, or run functions, whose ops are looked at by themselves.
_HARMLESS = {*keras_private.READS, "Placeholder", "While", "If", "Case", "PartitionedCall", "StatefulPartitionedCall",
             "Assert", "CheckNumerics", "CheckNumericsV2", "EmptyTensorList"}  # fmt: skip


def _kinds(ops: Sequence[Any]) -> set[str]:
    """The types of these ops and of those in the functions they run (loop bodies)."""
    nodes = [op.node_def for op in ops]
    found = {node.op for node in nodes}
    unseen = _functions(nodes)
    if not unseen:
        return found
    library = {function.signature.name: function.node_def for function in ops[0].graph.as_graph_def().library.function}
    seen: set[str] = set()
    while unseen:
        name = unseen.pop()
        seen.add(name)
        found |= {node.op for node in library[name]}
        unseen |= _functions(library[name]) - seen
    return found


def _functions(nodes: Any) -> set[str]:
    """Names of the functions that these nodes run."""
    return {attribute.func.name for node in nodes for attribute in node.attr.values() if attribute.func.name}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TensorFlow logs pages on what it can't vectorize. What comes of it is in `history.noise.how`."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def factors(call: Call, deltas: Sequence[Any], variables: Sequence[Any], batch: int | None) -> list[Factor]:
    """A factor for each of `variables`, weights that `call` uses."""
    reads = [tf.convert_to_tensor(variable) for variable in variables]
    noted = (call.args, call.kwargs)
    leaves = keras.tree.flatten(noted)
    by_row = [isinstance(t, tf.Tensor) and bool(t.shape.rank) and t.shape[0] == batch for t in leaves]
    rows = [t for t, cut in zip(leaves, by_row) if cut]
    known = [d for d in deltas if d is not None]
    method = type(call.layer).call

    def one_row(elements: tuple[list[tf.Tensor], list[tf.Tensor]]) -> list[tf.Tensor]:
        row, delta = elements
        remaining = iter(row)
        filled = [next(remaining)[None] if cut else leaf for leaf, cut in zip(leaves, by_row)]
        args, kwargs = keras.tree.pack_sequence_as(noted, filled)
        mapping = list(zip(variables, reads))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(reads)
            with keras.StatelessScope(mapping), keras_private.autocast_scope(call.layer.compute_dtype):
                output = method(call.layer, *args, **kwargs)
        outputs = [t for t in keras.tree.flatten(output) if isinstance(t, tf.Tensor) and t.dtype.is_floating]
        used = [t for t, d in zip(outputs, deltas) if d is not None]
        gradients = tape.gradient(
            used, reads, output_gradients=[d[None] for d in delta], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    size = 4 * sum(math.prod(variable.shape) for variable in variables)
    activations = 4 * sum(math.prod(d or 1 for d in t.shape[1:]) for t in [*rows, *known])
    computed: list[Any] = []

    def make(k: int) -> tf.Tensor:
        if not computed:
            with _quiet():
                computed.append(tf.vectorized_map(one_row, (rows, known)))
        return computed[0][k]

    return [Each(lambda k=k: make(k), 3 * size + 8 * activations) for k in range(len(variables))]  # type: ignore[misc]
