"""Where each op of a traced program would run if there were a GPU, and in which memory its tensors would lie.

This is what TensorFlow does to a function before it runs it, as far as it decides who has to wait for whom:

- Calls are inlined; `While` becomes Enter, Merge, Switch and NextIteration, `If` and `Case` become Switch and Merge, each of
  which has kernels of its own (common_runtime/lower_while_op.cc, lower_if_op.cc). A value that enters a loop from an op that
  was asked to be on the host stays there, all the way round; others are where Merge has them.
- An op runs where it was asked to, else on the GPU if there is a kernel for its types, else on the host (the placer).
- A kernel on the GPU may want some arguments in the host's memory, and may leave results there: what TensorFlow counts or
  measures with is mostly int32, and int32 on a GPU mostly is in the host's memory. Where the memory in which a tensor lies is
  not the one in which it is wanted, it is copied, and a copy to the host makes the host wait for the GPU.

Of what TensorFlow's optimizer does, two things are followed: an Identity is dropped, and what is made of constants alone is a
constant. Of what an XLA program does inside nothing is seen.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from fitcore import keras_private

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_IN_MEMORY = "_Arg"  # the op that has a function's arguments, and so tells in which memory they lie


@dataclass(frozen=True)
class Found:
    """Something in the loop that concerns the host.

    Attributes:
      what: "on the host": no kernel for the GPU; "asked for": put on the host by the program itself; "to the host", "to the
        device": a copy.
      op: type of the op that runs on the host, or from which the tensor comes.
      dtype: of the tensor; of an op its first result's.
      at: of a copy, the op and argument that want it.
      name: of the op in the program.
    """

    what: str
    op: str
    dtype: str
    at: str
    name: str


@dataclass(frozen=True)
class Value:
    """A tensor: the op that made it, whether it lies in the host's memory, whether that op was asked to be on the host."""

    op: str
    name: str
    dtype: int
    host: bool
    asked: bool = False


def in_loop(graph: tf.Graph) -> Counter[Found]:
    """All that concerns the host in the `While` loops of a traced program, and how often per turn; branches count as taken."""
    definition = graph.as_graph_def(add_shapes=False)
    walk = _Walk({each.signature.name: each for each in definition.library.function})
    walk.nodes(definition.node, {}, None, loop=False)
    return walk.found


def gpu_kernel(node: Any) -> Any:
    """The KernelDef by which a GPU would run this op; None if there is none."""
    kernels = keras_private.registered_kernels(node.op)
    for kind in ("GPU", "DEFAULT"):  # DEFAULT: for any kind of device that has none of its own
        for kernel in kernels:
            if kernel.device_type == kind and not kernel.label and _fits(kernel, node):
                return kernel
    return None


def _fits(kernel: Any, node: Any) -> bool:
    for constraint in kernel.constraint:
        value = _attribute(node, constraint.name)
        types = [value.type] if value.type else value.list.type
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _attribute(node: Any, name: str) -> Any:
    if name in node.attr:
        return node.attr[name]
    return next(each.default_value for each in keras_private.op_definition(node.op).attr if each.name == name)


def _arguments(node: Any, definitions: Any) -> list[tuple[str, int]]:
    """(name, dtype) of each tensor among an op's arguments, or results; an argument may hold several."""
    found = []
    for each in definitions:
        if each.type_list_attr:
            found += [(each.name, kind) for kind in _attribute(node, each.type_list_attr).list.type]
        else:
            kind = _attribute(node, each.type_attr).type if each.type_attr else each.type
            found += [(each.name, kind)] * (_attribute(node, each.number_attr).i if each.number_attr else 1)
    return found


def _on_host_by(kernel_of: str, argument: str, dtype: int) -> bool:
    """Whether that op's kernel on a GPU has this argument in the host's memory, for tensors of this type."""
    node = tf.compat.v1.NodeDef(op=kernel_of, attr={"T": tf.compat.v1.AttrValue(type=dtype)})
    kernel = gpu_kernel(node)
    return kernel is None or argument in kernel.host_memory_arg


@dataclass
class _Walk:
    functions: Mapping[str, Any]
    found: Counter[Found] = field(default_factory=Counter)
    _copied: set[tuple[Value, bool]] = field(default_factory=set)

    def nodes(
        self, nodes: Sequence[Any], arguments: Mapping[str, Value], wanted: Sequence[str] | None, loop: bool, device: str = ""
    ) -> list[Value]:
        """Run a function's ops; returns the values of its results.

        Args:
          nodes: its ops, in any order.
          arguments: by name.
          wanted: the ops and arguments whose results it returns; None: all of a graph's ops are wanted.
          loop: whether it is run at each turn.
          device: what those ops are asked to be on that aren't asked themselves: the call's.
        """
        by_name = {node.name: node for node in nodes}
        values: dict[str, list[Value]] = {name: [value] for name, value in arguments.items()}
        needs = needs_of(nodes)
        alive = set(by_name) if wanted is None else reachable(needs, wanted)
        used = {reference for name in alive for reference in by_name[name].input} | {*(wanted or ())}
        for name in graphlib.TopologicalSorter(needs).static_order():
            if name in alive:
                node = by_name[name]
                if device and not node.device:
                    node = type(node).FromString(node.SerializeToString())
                    node.device = device
                inputs = [self._value(each, by_name, values) for each in node.input if not each.startswith("^")]
                values[name] = self._node(node, inputs, loop, used)
        return [self._value(each, by_name, values) for each in wanted or () if not each.startswith("^")]

    def function(self, name: str, inputs: Sequence[Value], loop: bool, device: str) -> list[Value]:
        """Run a function of the library, called on that device."""
        function = self.functions[name]
        arguments = {each.name: value for each, value in zip(function.signature.input_arg, inputs)}
        results = [function.ret[each.name] for each in function.signature.output_arg]
        kept = [f"^{name}" for name in function.control_ret.values()]
        return self.nodes(function.node_def, arguments, [*results, *kept], loop, device)

    def _value(self, reference: str, by_name: Mapping[str, Any], values: Mapping[str, list[Value]]) -> Value:
        """What `name`, `name:3` (in a graph) or `name:result:3` (in a function) stands for."""
        name, *place = reference.split(":")
        if len(place) < 2:
            return values[name][int(place[0]) if place else 0]
        results = [each for each, _ in _arguments(by_name[name], keras_private.op_definition(by_name[name].op).output_arg)]
        return values[name][results.index(place[0]) + int(place[1])]

    def _node(self, node: Any, inputs: list[Value], loop: bool, used: set[str]) -> list[Value]:
        if node.op in self.functions:
            return self.function(node.op, inputs, loop, node.device)
        if node.op in CALLS and not node.attr["_XlaMustCompile"].b:
            return self.function(node.attr["f"].func.name, inputs, loop, node.device)
        if node.op in ("While", "StatelessWhile"):
            return self._while(node, inputs, loop)
        if node.op in ("If", "StatelessIf", "Case", "StatelessCase"):
            return self._branches(node, inputs, loop, used)
        return self._leaf(node, inputs, loop)

    def _leaf(self, node: Any, inputs: list[Value], loop: bool) -> list[Value]:
        definition = keras_private.op_definition(node.op)
        asked = "CPU" in node.device
        by_xla = node.op in CALLS
        kernel = None if asked or by_xla else gpu_kernel(node)
        on_host = kernel is None and not by_xla
        results = _arguments(node, definition.output_arg)
        if node.op == "Placeholder":  # an argument of the whole program
            return [Value(node.op, node.name, kind, _on_host_by(_IN_MEMORY, "output", kind)) for _, kind in results]
        if node.op == "Identity" and not asked:
            return inputs
        if inputs and not definition.is_stateful and all(value.op == "Const" for value in inputs):
            return [Value("Const", node.name, kind, _on_host_by("Enter", "output", kind)) for _, kind in results]
        if loop and on_host and node.op != "NoOp":
            kind = tf.as_dtype(results[0][1]).name if results else ""
            self.found[Found("asked for" if asked else "on the host", node.op, kind, "", node.name)] += 1
        kept = () if kernel is None else kernel.host_memory_arg
        for (argument, kind), value in zip(_arguments(node, definition.input_arg), inputs):
            host = on_host or argument in kept or kind == tf.resource.as_datatype_enum
            constant = value.op == "Const" and on_host  # the placer puts a constant where it is used
            if not constant:
                self._wanted(value, host, f"{node.op}.{argument}", loop)
        return [Value(node.op, node.name, kind, on_host or name in kept, asked) for name, kind in results]

    def _wanted(self, value: Value, host: bool, at: str, loop: bool) -> None:
        """Somebody wants it in this memory; several who want the same copy get one."""
        if loop and value.host != host and (value, host) not in self._copied:
            self._copied.add((value, host))
            dtype = tf.as_dtype(value.dtype).name
            self.found[Found("to the host" if host else "to the device", value.op, dtype, at, value.name)] += 1

    def _while(self, node: Any, inputs: list[Value], loop: bool) -> list[Value]:
        turning = []
        for value in inputs:
            host = value.asked or _on_host_by("Merge", "output", value.dtype)
            self._wanted(value, host, "Enter.data", loop)
            turning.append(Value("Merge", f"{node.name}/{value.name}", value.dtype, host, value.asked))
        (more,) = self.function(node.attr["cond"].func.name, turning, True, node.device)
        self._wanted(more, True, "LoopCond.input", loop=True)
        for before, after in zip(turning, self.function(node.attr["body"].func.name, turning, True, node.device)):
            self._wanted(after, before.host, "NextIteration.data", loop=True)
        return turning

    def _branches(self, node: Any, inputs: list[Value], loop: bool, used: set[str]) -> list[Value]:
        which, *inputs = inputs
        self._wanted(which, True, "Switch.pred", loop)
        names = [node.attr[each].func.name for each in ("then_branch", "else_branch") if each in node.attr]
        names += [each.name for each in node.attr["branches"].list.func]
        results = []
        for i, values in enumerate(zip(*(self.function(name, inputs, loop, node.device) for name in names))):
            host = "CPU" in node.device or _on_host_by("Merge", "output", values[0].dtype)
            for value in values:
                if {f"{node.name}:output:{i}", f"{node.name}:{i}", *([node.name] if i == 0 else [])} & used:
                    self._wanted(value, host, "Merge.inputs", loop)
            results.append(Value("Merge", node.name, values[0].dtype, host, "CPU" in node.device))
        return results


def needs_of(nodes: Sequence[Any]) -> dict[str, set[str]]:
    """Which of these ops each of them needs, by name."""
    names = {node.name for node in nodes}
    return {node.name: {name for name in map(_source, node.input) if name in names} for node in nodes}


def reachable(needs: Mapping[str, set[str]], wanted: Sequence[str]) -> set[str]:
    """Those that are run for these results to be there; TensorFlow leaves out the others."""
    found: set[str] = set()
    waiting = [name for name in map(_source, wanted) if name in needs]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return found


def _source(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]
