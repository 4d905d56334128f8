"""Grows a random model, layer by layer."""

from __future__ import annotations

import random
import re
from typing import Any

import keras

from benchmarks.hunt.case import Input, Node
from benchmarks.hunt.choices import HEADS, VALUES
from benchmarks.hunt.layers import CUSTOM, HEAVY, LAYERS, Kind
from benchmarks.hunt.pieces import NAMES, PIECES

MOST = 1100  # numbers in a tensor's row: more would cost time and show nothing more
SHAPES = {1: (4,), 2: (5, 3), 3: (6, 6, 3), 4: (4, 4, 4, 2), 5: (3, 3, 3, 3, 1)}
TRIES = 30

# What Keras raises where layers don't fit together.
UNFIT = (ValueError, TypeError, AttributeError, IndexError, NotImplementedError, ZeroDivisionError, KeyError, RuntimeError)


class Unfit(Exception):
    """What was drawn can't be gone on with."""


class Model:
    """Grows layer by layer; each is called as soon as it is drawn, to see what comes out."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.tensors: list[Any] = []
        self.made: list[Any] = []

    def grown(self) -> tuple[tuple[Input, ...], tuple[Node, ...]]:
        """Inputs and layers, heads not yet there."""
        rng = self.rng
        for _ in range(rng.choices((1, 2, 3), (7, 2, 1))[0]):
            self._input()
        for i in range(len(self.inputs)):
            if self.inputs[i].holds != "floats":
                self._add(*self._drawn(i, self.inputs[i].holds))
            elif self.inputs[i].dtype != "float32":
                self._add(Node("Rescaling", "layers.Rescaling(0.5)", (i,)))
        for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5))):
            self._grow()
        return tuple(self.inputs), tuple(self.nodes)

    def _input(self) -> None:
        rng = self.rng
        holds = rng.choices(("floats", "tokens", "texts"), (16, 3, 0.5))[0]
        if holds == "floats":
            rank = rng.choices((1, 2, 3, 4, 5), (6, 5, 6, 1.5, 0.3))[0]
            dtypes = ("float32", "float64", "float16", "int32", "int64", "uint8", "bool")
            each = Input(SHAPES[rank], holds, rng.choices(dtypes, (12, 2, 1, 1, 0.5, 0.5, 0.5))[0])
        else:
            each = (
                Input((5,), holds, rng.choice(("int32", "int64", "float32"))) if holds == "tokens" else Input((1,), holds, "")
            )
        self.inputs.append(each)
        dtype = {"floats": None, "tokens": "int32", "texts": "string"}[each.holds]
        self.tensors.append(keras.Input(each.shape, dtype=dtype))

    def _last(self) -> int:
        """The tensor to go on from: mostly the last."""
        floats = [i for i, each in enumerate(self.tensors) if i >= len(self.inputs) or self._plain(i)]
        return floats[-1] if floats and self.rng.random() < 0.8 else self.rng.choice(floats)

    def _plain(self, i: int) -> bool:
        return self.inputs[i].holds == "floats" and self.inputs[i].dtype == "float32"

    def _grow(self) -> None:
        """One layer more, or a few where one of two inputs needs a partner."""
        rng, x = self.rng, self._last()
        again = [i for i, node in enumerate(self.nodes) if node.how == "one"]
        for _ in range(TRIES):
            if again and rng.random() < 0.07:
                i = rng.choice(again)
                shape = self.tensors[self.nodes[i].takes[0]].shape
                fits = [t for t, each in enumerate(self.tensors) if each.shape == shape and t != self.nodes[i].takes[0]]
                if fits and self._try(Node(self.nodes[i].kind, "", (fits[-1],), again=i)):
                    return
            elif (rng.random() < 0.05 and self._nested(x)) or self._try(*self._drawn(x, "floats")):
                return

    def _nested(self, x: int) -> bool:
        """A Sequential within, of two or three layers."""
        inner = [self._drawn(x, "floats", ("one",))[-1].layer for _ in range(self.rng.randint(2, 3))]
        return self._try(Node("Sequential", f"keras.Sequential([{', '.join(inner)}])", (x,)))

    def _drawn(self, x: int, holds: str, how: tuple[str, ...] = ("one", "list", "two")) -> tuple[Node, ...]:
        """A layer for this tensor, and before it what it needs."""
        shape = tuple(self.tensors[x].shape[1:])
        if None in shape:
            raise Unfit
        known = LAYERS if holds != "floats" or self.rng.random() > 0.12 else CUSTOM
        fit = [
            (name, kind)
            for name, kind in known.items()
            if str(len(shape)) in kind.ranks
            and kind.inputs == holds
            and kind.takes in how
            and (known is CUSTOM or hasattr(keras.layers, name))
        ]
        if not fit:
            raise Unfit
        dense = [(i, node) for i, node in enumerate(self.nodes) if node.kind == "Dense" and node.again is None]
        for i, _ in dense:
            if known is CUSTOM and getattr(self.made[i], "units", None) == shape[-1]:
                return (Node("Tied", f"Tied(l{i})", (x,)),)
        name, kind = self.rng.choices(fit, [0.1 if name in HEAVY else 1.0 for name, _ in fit])[0]
        text = f"{'layers.' if known is LAYERS else ''}{name}({', '.join(self._arguments(kind, shape))})"
        if kind.takes == "one":
            return (Node(name, text, (x,)),)
        alike = [
            i for i, each in enumerate(self.tensors) if tuple(each.shape[1:]) == shape and i >= len(self.inputs) and i != x
        ]
        if alike:
            return (Node(name, text, (x, self.rng.choice(alike)), kind.takes),)
        branch = Node("Dense", f"layers.Dense({shape[-1]}, activation={VALUES['activation'](self.rng, shape)})", (x,))
        return branch, Node(name, text, (x, len(self.tensors)), kind.takes)

    def _arguments(self, kind: Kind, shape: tuple[int, ...]) -> list[str]:
        chosen = [each for each in kind.arguments if each[0] != "?" or self.rng.random() < 0.2]
        return [re.sub(r"\{(\w+)\}", lambda found: VALUES[found[1]](self.rng, shape), each.lstrip("?")) for each in chosen]

    def _try(self, *nodes: Node) -> bool:
        before = len(self.nodes), len(self.tensors)
        try:
            self._add(*nodes)
        except (Unfit, *UNFIT):
            del self.nodes[before[0] :], self.tensors[before[1] :], self.made[before[0] :]
            return False
        return True

    def _add(self, *nodes: Node) -> None:
        for node in nodes:
            names = NAMES | PIECES | {f"l{i}": each for i, each in enumerate(self.made)}
            layer = self.made[node.again] if node.again is not None else eval(node.layer, names)
            given = [self.tensors[i] for i in node.takes]
            result = layer(given if node.how == "list" else given[0]) if node.how != "two" else layer(*given)
            size = 1
            for each in result.shape[1:]:
                size *= each or MOST + 1
            if (
                size > MOST
                or len(result.shape) < 2
                or result.shape[0] is not None
                or not result.dtype.startswith(("float", "bfloat"))
            ):
                raise Unfit
            self.nodes.append(node)
            self.tensors.append(result)
            self.made.append(layer)

    def head(self, tensor: int, target: str) -> int:
        """Adds a last layer for such a target; which tensor it gives."""
        rng = self.rng
        if len(self.tensors[tensor].shape) > 2 and rng.random() < 0.7:
            self._add(Node("Flatten", "layers.Flatten()", (tensor,)))
            tensor = len(self.tensors) - 1
        units = 3 if target in ("one_hot", "class", "class_logits") else rng.choice((1, 1, 2))
        if target == "number" and rng.random() < 0.15:
            return tensor
        head = rng.choice(HEADS[target])
        self._add(Node("Dense", f"layers.Dense({units}, activation={head})", (tensor,)))
        return len(self.tensors) - 1
