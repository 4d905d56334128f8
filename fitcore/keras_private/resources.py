"""What a traced program does to what lives outside of it: variables, tables, queues, iterators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

# Types of ops that leave a resource as it is.
READS = {
    "ReadVariableOp", "_ReadVariablesOp", "VariableShape", "VarIsInitializedOp", "ResourceGather", "ResourceGatherNd",
    "LookupTableFindV2", "LookupTableSizeV2", "LookupTableExportV2",
}  # fmt: skip
_PASSED_ON = ("Identity", "Enter", "Switch", "_Retval")
# Parts of their names where they only put something out, or keep others waiting.
_ONLY_OUTPUT = ("Summary", "Mutex", "Collective", "Assert", "Print")
# State that belongs to the process or to the op itself: no handle leads to it.
_WITHOUT_HANDLE = ("Stage", "Unstage", "MapStage", "MapUnstage", "OrderedMapStage", "OrderedMapUnstage", "RecordInput")
_PYTHON = ("PyFunc", "EagerPyFunc")


@dataclass
class Resource:
    """Something outside a graph that the graph's ops are handed.

    Attributes:
      handle: the tensor that stands for it, outside of all graphs.
      name: of the graph's input.
      written_by: types of the ops that may change it; empty if none does.
      variable: whether it is a variable's.
      types: of a table's keys and values, if ops that tell them use it.
    """

    handle: Any
    name: str
    written_by: set[str] = field(default_factory=set)
    variable: bool = False
    types: tuple[tf.DType, tf.DType] | None = None


@dataclass
class Effects:
    """What ops do to what is outside of their graph.

    Attributes:
      resources: what they are handed, in the order in which the graph took it up.
      python: whether they call Python functions, as `tf.py_function` does.
      hidden: types of those that keep a state to which no handle leads.
    """

    resources: list[Resource]
    python: bool
    hidden: list[str]

    def written(self) -> list[Resource]:
        """What they may change."""
        return [each for each in self.resources if each.written_by]


def effects(graph: Any, since: int = 0) -> Effects:
    """What the ops of a graph, and of the functions that it calls, do to what is outside of it.

    Why: what a function captured is told by its FuncGraph alone, and whether a handle is a variable's by its handle data alone;
    neither is a public class (TensorFlow >= 2.0).

    Args:
      graph: traced, or being traced.
      since: only ops made after this version of it.
    """
    definition = graph.as_graph_def(from_version=since or None)
    functions = {function.signature.name: function for function in definition.library.function}
    found: list[Resource] = []
    known: dict[Any, dict[str, Any]] = {}
    for external, internal in getattr(graph, "captures", ()):
        if external.dtype == tf.resource:
            handle = _root(external)
            users = _users(definition.node, {internal.op.name}, functions, known)
            name, written_by = internal.op.name, {node.op for node in users.values() if _changes(node.op)}
            of_table = [node.attr for node in users.values() if node.op.startswith("LookupTable") and "Tin" in node.attr]
            tables = [(tf.as_dtype(each["Tin"].type), tf.as_dtype(each["Tout"].type)) for each in of_table if "Tout" in each]
            found.append(Resource(handle, name, written_by, _is_variable(handle), tables[0] if tables else None))
    types = {node.op for node in definition.node}
    for name in _called(definition.node, functions):
        types |= {node.op for node in functions[name].node_def}
    return Effects(found, not types.isdisjoint(_PYTHON), sorted(types.intersection(_WITHOUT_HANDLE)))


def kept(resource: Resource) -> tuple[Callable[[], Any], list[tf.Tensor]] | None:
    """Read a variable or a table here, in the graph; returns what puts that back there, and for which tensors all that writes
    to it meanwhile has to wait. None if it is neither.

    Why: a handle's own dtype is `tf.resource`; the variable's is in its private handle data (TensorFlow >= 2.0).
    """
    handle = resource.handle
    if resource.variable:
        data = resource_variable_ops.get_eager_safe_handle_data(handle)
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.as_dtype(data.shape_and_type[0].dtype))
        return lambda: tf.raw_ops.AssignVariableOp(resource=handle, value=value), []
    if resource.types is None:
        return None
    of_keys, of_values = resource.types
    exported = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=of_keys, Tvalues=of_values)
    keys, values = (tf.raw_ops.DeepCopy(x=part) for part in exported)  # a DenseHashTable hands out its own memory
    return lambda: tf.raw_ops.LookupTableImportV2(table_handle=handle, keys=keys, values=values), [keys, values]


def surrounding(graph: Any) -> Iterator[Any]:
    """The graph, the one it is traced within, and so on: those of functions. Why: not public (TensorFlow >= 2.0)."""
    while graph is not None and hasattr(graph, "captures"):
        yield graph
        graph = graph.outer_graph


def version(graph: Any) -> int:
    """How far the graph has been traced. Why: `Graph.version` isn't public for all graphs (TensorFlow >= 2.0)."""
    return int(graph.version)


def captured_variables(graph: Any) -> list[tf.Variable]:
    """The variables behind a traced program's handles, those of functions that it calls included.

    Why: a concrete function's own list is of weak references in its FuncGraph (TensorFlow >= 2.0).
    """
    return [variable for variable in graph.variables if isinstance(variable, tf.Variable)]


def resource_of(value: Any) -> list[Any]:
    """The handles that an object of TensorFlow's keeps. Why: tables, queues and iterators each have another private attribute
    for it (TensorFlow >= 2.0)."""
    return [each for each in vars(value).values() if isinstance(each, tf.Tensor) and each.dtype == tf.resource]


def _root(tensor: Any) -> Any:
    """What a placeholder of a function stands for, outside of all functions."""
    while not hasattr(tensor, "numpy") and hasattr(tensor, "graph"):
        outer = next((given for given, inside in getattr(tensor.graph, "captures", ()) if inside is tensor), None)
        if outer is None:
            break
        tensor = outer
    return tensor


def _is_variable(handle: Any) -> bool:
    data = resource_variable_ops.get_eager_safe_handle_data(handle)
    return data is not None and bool(data.is_set) and len(data.shape_and_type) == 1


def _changes(kind: str) -> bool:
    return kind not in READS and not any(part in kind for part in _ONLY_OUTPUT)


def _users(nodes: Any, names: set[str], functions: Any, known: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """One op of each type that is handed what has one of these names, within the functions that are called too; by type."""
    names, found = set(names), {}
    for node in nodes:
        for i, given in enumerate(node.input):
            if given.startswith("^") or given.split(":")[0] not in names:
                continue
            if node.op in _PASSED_ON:
                names.add(node.name)
                continue
            called = list(_functions_of(node, functions))
            if not called:
                found[node.op] = node
            for name in called:
                place = i - (node.op in ("If", "StatelessIf", "Case", "StatelessCase"))
                arguments = functions[name].signature.input_arg
                if not 0 <= place < len(arguments):
                    found[node.op] = node
                    continue
                if (name, place) not in known:
                    known[name, place] = {}  # of a function that calls itself
                    known[name, place] = _users(functions[name].node_def, {arguments[place].name}, functions, known)
                found |= known[name, place]
    return found


def _functions_of(node: Any, functions: Any) -> Iterator[str]:
    for value in node.attr.values():
        for each in (value.func, *value.list.func):
            if each.name in functions:
                yield each.name


def _called(nodes: Any, functions: Any) -> set[str]:
    """All functions that these ops call, at any depth."""
    found: set[str] = set()
    left = [nodes]
    while left:
        for node in left.pop():
            for name in _functions_of(node, functions):
                if name not in found:
                    found.add(name)
                    left.append(functions[name].node_def)
    return found
