"""A traced function in the form that TensorFlow's graph optimizer (Grappler) gives it.

Grappler fuses and rearranges ops, and a fused op rounds differently. What it fuses depends on what stands around a function:
of a step inlined into a loop it makes other ops than of the same step called once, as Keras calls it (seen: one of two
`_MklSwish` with oneDNN on). So the step is optimized here once, alone, and what comes out is a function of its own: inside a
loop that is not optimized again it is the very same ops that a call per step would run.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import cancellation, context, execute
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import func_graph
from tensorflow.python.ops import handle_data_util

# Grappler's optimizers that put other ops in place of those that are there. What is left takes away identities and edges.
_COMPUTING = (
    "layout_optimizer",
    "constant_folding",
    "shape_optimization",
    "remapping",
    "common_subgraph_elimination",
    "arithmetic_optimization",
    "function_optimization",
    "pin_to_host_optimization",
    "scoped_allocator_optimization",
    "implementation_selector",
    "auto_mixed_precision",
    "auto_mixed_precision_mkl",
    "auto_mixed_precision_onednn_bfloat16",
    "auto_mixed_precision_cpu",
    "use_plugin_optimizers",
)

_numbers = itertools.count()
_TRIES = 20  # each fails only while another thread prepares a function
_collecting = threading.Lock()  # TensorFlow collects graphs for the whole process


def optimized(function: Callable[..., Any], specs: Sequence[Any], over_replicas: bool) -> Callable[..., Any] | None:
    """A traced function, as TensorFlow runs it when it is called by itself, to be called in other graphs.

    Nothing is run: TensorFlow optimizes a function when it prepares the first call, and that call is cancelled before it
    starts. Its graph is then imported, op by op, into a new function.

    Args:
      function: a `tf.function`; it is traced for the specs if it isn't yet.
      specs: of its arguments, the first of which is a batch: nests of `tf.TensorSpec` and the like.
      over_replicas: whether the batch is one of several replicas.

    Returns:
      A function of the same arguments and results, for calls while a graph is built. None if there can be none: some op of its
      graph may be skipped while others wait for it (a side effect in an untaken branch), or calls what can't be had.

    Why: TensorFlow has no public way to ask for the optimized graph or to make a function of it (TensorFlow >= 2.14: names of
    `atomic_function`).
    """
    outer, definition = _prepared(function, specs, over_replicas)
    if _unknown(definition):  # functions made for one call of another: they can't be had, but needn't be made
        with _rewrites_off("function_optimization"):
            outer, definition = _prepared(function, specs, over_replicas)
    graph = None if _unknown(definition) else _imported(definition, outer)
    if graph is None:
        return None
    inner = atomic_function.from_func_graph(f"__inference_optimized_{next(_numbers)}", graph, {})

    def call(*arguments: Any) -> Any:
        here = tf.compat.v1.get_default_graph()
        for variable in outer.graph.variables:  # as any function that is called tells the graph what it uses
            here.watch_variable(variable)
        flat = [leaf for leaf in tf.nest.flatten(arguments, expand_composites=True) if leaf is not None]
        results = _call(here, inner, [*flat, *outer.captured_inputs])
        for result, traced in zip(results, outer.outputs):
            result.set_shape(traced.shape)
            handle_data_util.copy_handle_data(traced, result)
        return tf.nest.pack_sequence_as(outer.structured_outputs, results, expand_composites=True)

    return call


def _call(graph: Any, function: Any, arguments: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The results of an op in this graph that calls an `AtomicFunction`.

    Why: its own call lets TensorFlow find the shapes of the results by walking through the function. That fails at loops that
    were lowered, or doesn't, by the order of ops, which is chance ("Missing src context"; TensorFlow 2.20, 2.21).
    """
    graph._add_function_recursive(function)
    options, kinds = function.call_options, [each.dtype for each in function.function_type.flat_outputs]
    settings = context.context().function_call_options.as_attrs()
    attributes = {
        "f": attr_value_pb2.AttrValue(func=attr_value_pb2.NameAttrList(name=function.name)),
        "Tin": _types([each.dtype for each in arguments]),
        "Tout": _types(kinds),
        "config_proto": attr_value_pb2.AttrValue(s=settings["config_proto"]),
        "executor_type": attr_value_pb2.AttrValue(s=tf.compat.as_bytes(settings["executor_type"])),
        "_disable_call_shape_inference": attr_value_pb2.AttrValue(b=True),
    }
    name = "StatefulPartitionedCall" if options.is_stateful else "PartitionedCall"
    op = graph.create_op(name, arguments, kinds, name=name, attrs=attributes)
    atomic_function._set_read_only_resource_inputs_attr(op, function.graph)
    return list(op.outputs)


def _types(kinds: Sequence[tf.DType]) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(type=[each.as_datatype_enum for each in kinds]))


def not_optimized_again() -> contextlib.AbstractContextManager[None]:
    """Within it functions that are called for the first time are run as they were traced."""
    return _rewrites_off(*_COMPUTING)


@contextlib.contextmanager
def _rewrites_off(*names: str) -> Iterator[None]:
    """Within it functions that are called for the first time are optimized without these.

    Why: the public `tf.config.optimizer.set_experimental_options` would say so for all threads and calls; this is what it sets
    (TensorFlow >= 2.0).
    """
    here = context.context()
    before = here.function_call_options
    options = copy.copy(before)
    config = config_pb2.ConfigProto.FromString(before.config_proto_serialized)
    rewrites = config.graph_options.rewrite_options
    for name in names:
        setattr(rewrites, name, rewriter_config_pb2.RewriterConfig.OFF)
    options.config_proto_serialized = config
    here.function_call_options = options
    try:
        yield
    finally:
        here.function_call_options = before


def _prepared(function: Any, specs: Sequence[Any], over_replicas: bool) -> tuple[Any, Any]:
    """A concrete function that calls this one, and the GraphDef that TensorFlow runs for it.

    Raises:
      RuntimeError: other threads prepared functions of theirs each time that this was tried.
    """
    flat, batch = (tf.nest.flatten(nest, expand_composites=True) for nest in (list(specs), specs[0]))
    in_batch = 0 if over_replicas else sum(spec is not None for spec in batch)  # of replicas Keras's come out of several ops

    def called(*arguments: tf.Tensor) -> Any:
        given = iter([*_out_of_one_op(arguments[:in_batch]), *arguments[in_batch:]])
        leaves = [None if spec is None else next(given) for spec in flat]
        return function(*tf.nest.pack_sequence_as(list(specs), leaves, expand_composites=True))

    for _ in range(_TRIES):
        mark = f"fitcore_{next(_numbers)}"  # begins the arguments' names, which tell this graph from others
        marked = [tf.TensorSpec(spec.shape, spec.dtype, f"{mark}_{i}") for i, spec in enumerate(flat) if spec is not None]
        outer = tf.function(called, autograph=False).get_concrete_function(*marked)
        definition = _optimized_graph(outer, mark)
        if definition is not None:
            return outer, definition
    raise RuntimeError(f"TensorFlow didn't hand over the optimized graph of a step in {_TRIES} tries.")


def _out_of_one_op(batch: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors of a batch, out of an op that has the name of the one that they come out of in Keras's step.

    Factors and terms are put in the order of their ops' names, and an argument's can't begin with a capital letter.
    """
    if not batch:
        return []
    several = [*batch, *batch][: max(2, len(batch))]  # TensorFlow removes an identity of one
    return tf.raw_ops.IdentityN(input=several, name="IteratorGetNext")[: len(batch)]


def _optimized_graph(function: Any, mark: str) -> Any | None:
    """The GraphDef that TensorFlow runs for a concrete function whose arguments' names begin with `mark`, no other's.

    None if another thread prepared a function at the same time: TensorFlow puts the nodes of both into one.

    Why: graphs are collected with a run's metadata, which the public API writes to files only (TensorFlow >= 2.0).
    """
    cancelled = cancellation.CancellationManager()
    cancelled.start_cancel()
    given = len(function.inputs) - len(function.captured_inputs)
    nothing = [_placeholder(tensor) for tensor in function.inputs[:given]]
    with _collecting:
        context.enable_run_metadata()
        try:
            with contextlib.suppress(tf.errors.CancelledError):
                execute.execute_with_cancellation(
                    function.name.decode(),
                    len(function.outputs),
                    [*nothing, *function.captured_inputs],
                    tuple(itertools.chain(*context.context().function_call_options.as_attrs().items())),
                    context.context(),
                    cancelled,  # `CancellationManagerContext` would cancel the calls of all threads
                )
            tf.zeros([1]) + 1  # what was collected by a call that failed is handed over by the next op
            collected = context.export_run_metadata().function_graphs
        finally:
            context.disable_run_metadata()
    signature = function.function_def.signature
    known = {("_Arg", i, each.name) for i, each in enumerate(signature.input_arg)}
    for graphs in collected:  # what goes in and what comes out; the latter apart if another thread ran an op in between
        before, after = (_ends(graph) for graph in (graphs.pre_optimization_graph, graphs.post_optimization_graph))
        if any(name.startswith(mark) for _, _, name in (*before, *after)):
            arguments, results = ({each for each in after if each[0] == op} for op in ("_Arg", "_Retval"))
            once = len(after) == len(arguments | results)
            if once and arguments and arguments <= known and len(results) == len(signature.output_arg):
                return graphs.post_optimization_graph
    return None


def _ends(definition: Any) -> list[tuple[str, int, str]]:
    """The nodes of a GraphDef that stand for arguments and results: op, which, name."""
    return [(node.op, node.attr["index"].i, node.name) for node in definition.node if node.op in ("_Arg", "_Retval")]


def _unknown(definition: Any) -> set[str]:
    """Names of the functions that a GraphDef's ops call and that are nowhere to be found."""
    here = {each.signature.name for each in definition.library.function}
    named = {value.func.name for node in definition.node for value in node.attr.values() if value.func.name}
    named |= {each.name for node in definition.node for value in node.attr.values() for each in value.list.func}
    return {name for name in named if name not in here and not context.context().has_function(name)}


def _placeholder(tensor: tf.Tensor) -> tf.Tensor:
    """A value for an argument of a call that never starts."""
    if tensor.dtype == tf.variant:
        return tf.raw_ops.EmptyTensorList(element_shape=-1, max_num_elements=0, element_dtype=tf.float32)
    shape = [size or 0 for size in tensor.shape] if tensor.shape.rank is not None else []
    return tf.fill(shape, "") if tensor.dtype == tf.string else tf.zeros(shape, tensor.dtype)


def _imported(definition: Any, function: Any) -> Any:
    """A graph with the ops of an optimized GraphDef and the inputs of the concrete function that it was made of, or None."""
    arguments = {node.attr["index"].i: node.name for node in definition.node if node.op == "_Arg"}
    results = {node.attr["index"].i: node.input[0] for node in definition.node if node.op == "_Retval"}
    names = {*arguments.values()}
    body = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
    for node in definition.node:
        if node.op not in ("_Arg", "_Retval"):
            added = body.node.add()
            added.CopyFrom(node)
            del added.input[:]  # an argument is there before the function starts: nothing needs to wait for it
            added.input.extend(each for each in node.input if not (each.startswith("^") and each[1:] in names))
    last = _last(body)
    if last is None:
        return None
    for each in definition.library.function:
        if not context.context().has_function(each.signature.name):
            context.context().add_function_def(each)

    graph = func_graph.FuncGraph("optimized")
    for each in function.graph._functions.values():  # what its ops call; this graph keeps it from being forgotten
        graph._add_function_recursive(each)
    used = {_node(each) for node in body.node for each in node.input}
    with graph.as_default():
        inputs = []
        for tensor in function.inputs:
            inputs.append(tf.compat.v1.placeholder(tensor.dtype, tensor.shape))
            handle_data_util.copy_handle_data(tensor, inputs[-1])
        given = {f"{name}:0": inputs[index] for index, name in arguments.items()}
        wanted = [results[index] if ":" in results[index] else f"{results[index]}:0" for index in sorted(results)]
        imported = [name for name in wanted if name not in given]
        mapped = {name: tensor for name, tensor in given.items() if _node(name) in used}
        found = dict(zip(imported, tf.graph_util.import_graph_def(body, mapped, imported, name="")))
        outputs = [found[name] if name in found else tf.identity(given[name]) for name in wanted]
        for made, traced in zip(outputs, function.outputs):
            made.set_shape(traced.shape)
    graph.inputs = inputs
    graph.outputs = graph.structured_outputs = outputs
    graph.control_outputs = [graph.get_operation_by_name(name) for name in last]
    return graph


def _last(body: Any) -> list[str] | None:
    """Names of the ops that no other waits for: the function ends with them. None if one of them may never run."""
    waited_for = {_node(each) for node in body.node for each in node.input}
    nodes = {node.name: node for node in body.node}
    skipped: set[str] = set()  # ops that run in one branch only
    unseen = [node for node in body.node if node.op == "Switch"]
    followers: dict[str, list[Any]] = {}
    for node in body.node:
        for each in node.input:
            followers.setdefault(_node(each), []).append(node)
    while unseen:
        for node in followers.get(unseen.pop().name, ()):
            if node.op not in ("Merge", "Exit") and node.name not in skipped:
                skipped.add(node.name)
                unseen.append(node)
    last = [name for name in nodes if name not in waited_for]
    return None if skipped.intersection(last) else last


def _node(name: str) -> str:
    """The node that an input names: "node", "node:1" or "^node"."""
    return name.lstrip("^").split(":")[0]
