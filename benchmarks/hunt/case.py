"""A case as plain data: the model's parts, the data, what is asked of fit, and which variants fitcore trains.

Parts are source text ("layers.Dense(3, activation='tanh')"), from which `script.py` writes the program that is run and printed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LAYER = r"(?<!')\bl(\d+)\b(?!['=])"  # the variable of a node's layer in another's source; not the regularizer 'l2', nor l1=0.1
SHAPES = {
    "floats": "rng.normal(size={shape})",
    "tokens": "rng.integers(0, 12, size={shape})",
    "texts": "rng.choice(['a', 'b', 'c d', 'e'], size={shape})",
}


@dataclass(frozen=True)
class Input:
    """An input: its shape without the batch axis, what it holds ("floats", "tokens", "texts"), and the array's type."""

    shape: tuple[int, ...]
    holds: str = "floats"
    dtype: str = "float32"


@dataclass(frozen=True)
class Node:
    """A call of a layer.

    Attributes:
      kind: its class, for the table.
      layer: source text that makes it; "" where `again` says whose layer is called once more.
      takes: which tensors: inputs first, then the nodes' results.
      how: "one", "list" or "two" arguments.
      again: index of the node whose layer it shares.
    """

    kind: str
    layer: str
    takes: tuple[int, ...]
    how: str = "one"
    again: int | None = None


@dataclass(frozen=True)
class Output:
    """An output: which tensor, what its target is ("number", "binary", "class", ...), loss, and the target's type."""

    tensor: int
    target: str
    loss: str
    dtype: str = "float32"
    metrics: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """All of it.

    Attributes:
      form: "sequential", "functional" or "subclassed".
      base: the model's class.
      compile: arguments of `compile` beside loss and metrics, source text by name.
      source: what `x` is: "arrays", "dataset", ...
      rows, batch: how many.
      spoiled: a line that changes the data `x`, or "".
      weights: "", "sample" or "class".
      fit: arguments of fit beside the data, source text by name.
      validation: "", "split" or "data".
      callbacks: source text.
      changes: what is done before each fit, the first of them included.
      policy: the dtype policy, or "".
      cut: after how many steps the fit is cut that is.
      named: whether the inputs are a dict.
      evaluated: whether the model is evaluated at the end: another program to trace.
      variants: what fitcore is asked to do, names of `trial.VARIANTS`.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    form: str = "functional"
    base: str = "keras.Model"
    compile: dict[str, str] = field(default_factory=dict)
    source: str = "arrays"
    rows: int = 22
    batch: int = 4
    spoiled: str = ""
    weights: str = ""
    fit: dict[str, str] = field(default_factory=dict)
    validation: str = ""
    callbacks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ("nothing",)
    policy: str = ""
    cut: int = 3
    evaluated: bool = True
    named: bool = False
    variants: tuple[str, ...] = ("exact",)
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def kinds(self) -> Iterator[tuple[str, str]]:
        """(theme, what) of everything that it draws on, for the table."""
        for node in self.nodes:
            yield "layer", node.kind + (" again" if node.again is not None else "")
            for name in re.findall(r"activation=([^,)]*)", node.layer) + re.findall(
                r"^layers\.Activation\((.*)\)$", node.layer
            ):
                yield "activation", name.strip("'")
        for output in self.outputs:
            yield "loss", _name(output.loss)
            yield from (("metric", _name(metric)) for metric in output.metrics)
        for name, text in self.compile.items():
            yield ("optimizer", _name(text)) if name == "optimizer" else ("compile", f"{name}={text}")
        for option in re.findall(r", (\w+)=", self.compile.get("optimizer", "")):
            yield "optimizer's option", option
        yield "form", self.form + (" of a dict" if self.named else "")
        yield "class", self.base
        yield "source", self.source
        yield "weights", self.weights or "none"
        yield "policy", self.policy or "float32"
        yield from (("input", f"{each.holds} {each.dtype}") for each in self.inputs)
        yield from (("fit", name) for name in self.fit)
        yield "validation", self.validation or "none"
        yield from (("validation", "evaluated") for each in [self.evaluated] if each)
        yield from (("callback", _name(each)) for each in self.callbacks)
        yield from (("before a fit", each) for each in self.changes[1:])
        yield from (("data", "spoiled") for each in [self.spoiled] if each)
        yield "data", "whole batches" if self.rows % self.batch == 0 else "a smaller last batch"
        yield from (("trained", variant) for variant in self.variants)


def of_json(text: str) -> Case:
    """The case that `to_json` wrote."""
    held: dict[str, Any] = json.loads(text)
    return Case(
        **held
        | {
            "inputs": tuple(Input(**each | {"shape": tuple(each["shape"])}) for each in held["inputs"]),
            "nodes": tuple(Node(**each | {"takes": tuple(each["takes"])}) for each in held["nodes"]),
            "outputs": tuple(
                Output(**each | {"metrics": tuple(each["metrics"]), "shape": tuple(each["shape"])}) for each in held["outputs"]
            ),
            "callbacks": tuple(held["callbacks"]),
            "changes": tuple(held["changes"]),
            "variants": tuple(held["variants"]),
        }
    )


def _name(text: str) -> str:
    """What is called or named in a source text."""
    return text.split("(")[0].rsplit(".", 1)[-1].strip("'")
