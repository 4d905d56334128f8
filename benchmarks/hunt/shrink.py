"""Makes a case that fails as small as it can be while it still fails: parts are taken away, one at a time, greedily."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.hunt.case import LAYER, Case, Input, Node, Output
from benchmarks.hunt.draw import settled
from benchmarks.hunt.grow import UNFIT


def shrunk(case: Case, fails: Callable[[Case], bool], seconds: float = 120.0) -> Case:
    """The smallest case found in the time given, of those that `fails` says yes to. A case that can't be built doesn't fail."""
    end = time.monotonic() + seconds
    while True:
        for smaller in _smaller(case):
            if time.monotonic() > end:
                return case
            try:
                smaller = settled(smaller)
            except UNFIT:
                continue
            if fails(smaller):
                case = smaller
                break
        else:
            return case


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with something less, what takes away most first."""
    replace = dataclasses.replace
    if len(case.variants) > 1:
        yield from (replace(case, variants=(each,)) for each in case.variants)
    if len(case.outputs) > 1:
        for i in range(len(case.outputs)):
            yield pruned(
                replace(case, outputs=case.outputs[:i] + case.outputs[i + 1 :], compile=_without(case.compile, "loss_weights"))
            )
    for field, value in (("callbacks", ()), ("changes", case.changes[:1]), ("changes", ("nothing",)), ("spoiled", "")):
        if getattr(case, field) != value:
            yield replace(case, **{field: value})
    plain: dict[str, Any] = {"weights": "", "validation": "", "policy": "", "evaluated": False, "named": False}
    plain |= {"source": "arrays", "base": "keras.Model", "form": "functional"}
    for field, instead in plain.items():
        if getattr(case, field) != instead:
            yield replace(case, **{field: instead})
    for i in range(len(case.nodes)):
        yield from _without_node(case, i)
    for name in case.fit:
        if name != "epochs":
            yield replace(case, fit=_without(case.fit, name))
    for name in case.compile:
        if name != "optimizer":
            yield replace(case, compile=_without(case.compile, name))
    for i in range(len(case.callbacks)):
        yield replace(case, callbacks=case.callbacks[:i] + case.callbacks[i + 1 :])
    if any(each.metrics for each in case.outputs):
        yield replace(case, outputs=tuple(replace(each, metrics=()) for each in case.outputs))
    optimizer = case.compile.get("optimizer", "'sgd'")
    for simpler in ("'sgd'", "'adam'", *_fewer_arguments(optimizer)):
        if _complexity(simpler) < _complexity(optimizer):
            yield replace(case, compile=case.compile | {"optimizer": simpler})
    for i, node in enumerate(case.nodes):
        for text in _fewer_arguments(node.layer):
            yield replace(case, nodes=(*case.nodes[:i], replace(node, layer=text), *case.nodes[i + 1 :]))
    for i, output in enumerate(case.outputs):
        if output.loss != "'mse'" and output.target in ("number", "positive", "binary"):
            simple = replace(output, loss="'mse'", target="number", dtype="float32", metrics=())
            yield replace(case, outputs=(*case.outputs[:i], simple, *case.outputs[i + 1 :]))
    for i, each in enumerate(case.inputs):
        if each.holds == "floats" and each.dtype != "float32":
            yield replace(case, inputs=(*case.inputs[:i], replace(each, dtype="float32"), *case.inputs[i + 1 :]))
    if case.fit.get("epochs") != "1":
        yield replace(case, fit=case.fit | {"epochs": "1"})
    for rows in (case.batch, 2 * case.batch, case.batch + 1, 2 * case.batch + 1):
        if rows < case.rows:
            yield replace(case, rows=rows)


def _without(held: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in held.items() if key != name}


def _complexity(text: str) -> tuple[int, int, bool]:
    return text.count("("), text.count(",") + text.count("="), text != "'sgd'"


def _without_node(case: Case, i: int) -> Iterator[Case]:
    """The case without a node; who took its result takes what it took."""
    gone = len(case.inputs) + i
    for instead in dict.fromkeys(case.nodes[i].takes):

        def after(tensor: int, instead: int = instead) -> int:
            return instead if tensor == gone else tensor - (tensor > gone)

        heir = next((j for j, node in enumerate(case.nodes) if node.again == i), None)  # makes the layer from now on
        nodes = []
        for j, node in enumerate(case.nodes):
            if j == i:
                continue
            again = node.again
            layer = node.layer
            if j == heir:
                again, layer = None, case.nodes[i].layer
            elif again == i:
                again = heir
            again = None if again is None else again - (again > i)
            if str(i) in re.findall(LAYER, layer):
                return  # it uses that layer's weights
            layer = re.sub(LAYER, lambda found: f"l{int(found[1]) - (int(found[1]) > i)}", layer)
            nodes.append(Node(node.kind, layer, tuple(map(after, node.takes)), node.how, again))
        outputs = tuple(dataclasses.replace(each, tensor=after(each.tensor)) for each in case.outputs)
        if all(each.tensor >= len(case.inputs) for each in outputs):
            yield pruned(dataclasses.replace(case, nodes=tuple(nodes), outputs=outputs))


def pruned(case: Case) -> Case:
    """Without the inputs and nodes that no output needs."""
    count = len(case.inputs)
    needed: set[int] = set()
    open_tensors = [each.tensor for each in case.outputs]
    while open_tensors:
        tensor = open_tensors.pop()
        if tensor in needed:
            continue
        needed.add(tensor)
        if tensor >= count:
            node = case.nodes[tensor - count]
            used = [int(found) for found in re.findall(LAYER, node.layer)]
            open_tensors += [
                *node.takes,
                *(count + each for each in used),
                *([] if node.again is None else [count + node.again]),
            ]
    kept = sorted(needed)
    place = {tensor: i for i, tensor in enumerate(kept)}
    inputs: list[Input] = [case.inputs[i] for i in kept if i < count]
    new = len(inputs)
    nodes = []
    for tensor in kept:
        if tensor >= count:
            node = case.nodes[tensor - count]
            layer = re.sub(LAYER, lambda found: f"l{place[count + int(found[1])] - new}", node.layer)
            again = None if node.again is None else place[count + node.again] - new
            nodes.append(dataclasses.replace(node, layer=layer, takes=tuple(place[each] for each in node.takes), again=again))
    outputs: tuple[Output, ...] = tuple(dataclasses.replace(each, tensor=place[each.tensor]) for each in case.outputs)
    spoiled = case.spoiled if 0 in needed else ""
    return dataclasses.replace(case, inputs=tuple(inputs), nodes=tuple(nodes), outputs=outputs, spoiled=spoiled)


def _fewer_arguments(text: str) -> Iterator[str]:
    """The call with one keyword argument less, of the outermost ones; wrappers of optimizers without the wrapper."""
    found = re.fullmatch(r"([\w.]+)\((.*)\)", text, re.S)
    if found is None:
        return
    if found[1].endswith("LossScaleOptimizer"):
        yield _arguments(found[2])[0]
    given = _arguments(found[2])
    for i, each in enumerate(given):
        if re.match(r"\w+=", each):
            yield f"{found[1]}({', '.join(given[:i] + given[i + 1 :])})"


def _arguments(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == "'"
        depth += (letter in "([{") - (letter in ")]}") if not quoted else 0
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [each.strip() for each in parts if each.strip()]
