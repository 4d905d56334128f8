"""Draws a case: a pure function of (seed, index) and of the version of Keras."""

from __future__ import annotations

import dataclasses
import random
import re
import warnings
from typing import Any

import keras

from benchmarks.hunt import pieces
from benchmarks.hunt.case import Case, Input, Node, Output
from benchmarks.hunt.choices import HEADS, LOSSES, METRICS, OF_ALL, OPTIMIZERS, SCHEDULES, VALUES
from benchmarks.hunt.layers import CUSTOM, LAYERS, Kind
from benchmarks.hunt.script import result_shapes

MOST = 400  # numbers in a tensor's row: more would cost time and show nothing more
SHAPES = {1: (4,), 2: (5, 3), 3: (6, 6, 3), 4: (4, 4, 4, 2), 5: (3, 3, 3, 3, 1)}
TRIES = 30


def draw(seed: int, index: int) -> Case:
    """The case of this index."""
    rng = random.Random(f"{seed} {index}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while True:
            model = Model(rng)
            try:
                inputs, nodes = model.grown()
                return _options(rng, inputs, nodes, model)
            except Unfit:
                continue


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
        keras.utils.clear_session()
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
            each = Input((5,), holds, rng.choice(("int32", "int64", "float32"))) if holds == "tokens" else Input((1,), holds, "")
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
            elif rng.random() < 0.05 and self._nested(x):
                return
            elif self._try(*self._drawn(x, "floats")):
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
            if str(len(shape)) in kind.ranks and kind.inputs == holds and kind.takes in how and (known is CUSTOM or hasattr(keras.layers, name))
        ]
        if not fit:
            raise Unfit
        dense = [(i, node) for i, node in enumerate(self.nodes) if node.kind == "Dense" and node.again is None]
        for i, _ in dense:
            if known is CUSTOM and getattr(self.made[i], "units", None) == shape[-1]:
                return (Node("Tied", f"Tied(l{i})", (x,)),)
        name, kind = self.rng.choice(fit)
        text = f"{'layers.' if known is LAYERS else ''}{name}({', '.join(self._arguments(kind, shape))})"
        if kind.takes == "one":
            return (Node(name, text, (x,)),)
        alike = [i for i, each in enumerate(self.tensors) if tuple(each.shape[1:]) == shape and i >= len(self.inputs) and i != x]
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
            names = dict(vars(pieces)) | {f"l{i}": each for i, each in enumerate(self.made)}
            layer = self.made[node.again] if node.again is not None else eval(node.layer, names)
            given = [self.tensors[i] for i in node.takes]
            result = layer(given if node.how == "list" else given[0]) if node.how != "two" else layer(*given)
            size = 1
            for each in result.shape[1:]:
                size *= each or MOST + 1
            if size > MOST or len(result.shape) < 2 or result.shape[0] is not None or not result.dtype.startswith(("float", "bfloat")):
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


UNFIT = (ValueError, TypeError, AttributeError, IndexError, NotImplementedError, ZeroDivisionError, KeyError, RuntimeError)


def _optimizer(rng: random.Random) -> str:
    name = rng.choice([each for each in OPTIMIZERS if hasattr(keras.optimizers, each)])
    more = [each.lstrip("?") for each in OPTIMIZERS[name] if rng.random() < 0.3]
    more += [each.lstrip("?") for each in OF_ALL if rng.random() < 0.08]
    kept: dict[str, str] = {each.split("=")[0]: each for each in more}  # use_ema once
    if sum(each in kept for each in ("clipnorm", "clipvalue", "global_clipnorm")) > 1:
        kept.pop("clipnorm", None), kept.pop("clipvalue", None)  # Keras allows one
    rate = rng.choice(SCHEDULES) if rng.random() < 0.15 else rng.choice(("0.05", "0.01", "1e-3"))
    made = f"keras.optimizers.{name}({', '.join((rate, *kept.values()))})"
    return f"keras.optimizers.LossScaleOptimizer({made}, dynamic_growth_steps=3)" if rng.random() < 0.04 else made


CALLBACKS = (
    "SeesBatches()",
    "SeesEpochs()",
    "StopsIn('on_train_batch_end', 4)",
    "StopsIn('on_epoch_begin', 2)",
    "StopsIn('on_train_batch_begin', 3)",
    "StopsIn('on_epoch_end', 1)",
    "StopsIn('on_train_begin', 1)",
    "ChangesRate()",
    "DecaysWeights()",
    "KeepsBest()",
    "CompilesInEpoch(True)",
    "CompilesInEpoch(False)",
    "PredictsAtEpochs(checked['x'])",
    "keras.callbacks.EarlyStopping('loss', patience=0, restore_best_weights=True)",
    "keras.callbacks.ReduceLROnPlateau('loss', factor=0.5, patience=0, min_delta=10.0)",
    "keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)",
    "keras.callbacks.TerminateOnNaN()",
    "keras.callbacks.SwapEMAWeights()",
    "keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)",
    "keras.callbacks.History()",
)


def _some(rng: random.Random, chance: float, given: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: rng.choice(values) for name, values in given.items() if rng.random() < chance}


def _options(rng: random.Random, inputs: tuple[Input, ...], nodes: tuple[Node, ...], model: Model) -> Case:
    outputs = []
    used = [each for node in nodes for each in node.takes]
    ends = [i for i in range(len(model.tensors)) if i not in used and i >= len(inputs)]
    for tensor in ends if len(ends) < 4 else ends[-3:]:
        target = rng.choices(tuple(HEADS), (6, 1, 2, 2, 3, 1))[0]
        try:
            result = model.head(tensor, target)
        except UNFIT as error:
            raise Unfit from error
        metrics = tuple(rng.sample(METRICS[target], rng.choice((0, 0, 1, 2))))
        integers = ("int32", "int64") if target.startswith("class") else ("float32", "float32", "float64")
        outputs.append(Output(result, target, rng.choice(LOSSES[target]), rng.choice(integers), metrics))
    used = [each for node in model.nodes for each in node.takes] + [each.tensor for each in outputs]
    if not outputs or any(i not in used for i in range(len(inputs))):
        raise Unfit
    nodes = tuple(model.nodes)
    chain = all(node.takes == (len(inputs) + i - 1,) for i, node in enumerate(nodes)) and len(inputs) == 1
    forms = ("functional", "subclassed", "sequential") if chain and len(outputs) == 1 else ("functional", "subclassed")
    form = rng.choice(forms)
    base = "keras.Model"
    if form != "sequential" and rng.random() < 0.25:
        base = rng.choice(("Tape", "OwnMetrics", "ComputesLoss", "TwoOptimizers", "MovingCopy", "Adversarial"))
    batch = rng.choice((3, 4, 4, 8))
    rows = rng.choice((22, 22, 16, batch, 2 * batch, 2 * batch + 1, 5))
    frames = len(inputs) == 1 and len(inputs[0].shape) == 1 and inputs[0].holds != "texts"
    sources = ("dataset", "shuffled", "filtered", "pydataset", "generator", *(("frame",) if frames else ()))
    spoiled = ""
    if inputs[0].holds == "floats" and inputs[0].dtype.startswith("float"):
        spoiled = rng.choices(("", "x0[1] = 0", "x0[2] *= 100", "x0[0] = np.nan"), (20, 2, 2, 1))[0]
    source = "arrays" if rng.random() < 0.55 else rng.choice(sources)
    weights = rng.choices(("", "sample", "class"), (8, 1, 1))[0]
    if weights == "class" and (len(outputs) > 1 or outputs[0].target not in ("class", "class_logits")):
        weights = ""
    fit = {"epochs": rng.choice(("1", "2", "2", "3"))} | _some(
        rng, 0.12, {"shuffle": ("False", "'batch'"), "steps_per_epoch": ("2", "1"), "initial_epoch": ("1",), "validation_freq": ("2", "[1]")}
    )
    compiled = {"optimizer": _optimizer(rng)} | _some(
        rng, 0.08, {"steps_per_execution": ("2", "5"), "jit_compile": ("True",), "auto_scale_loss": ("False",)}
    )
    if source != "arrays" and source != "frame":
        fit.pop("shuffle", None)
    if len(outputs) > 1 and rng.random() < 0.3:
        compiled["loss_weights"] = repr([0.5] * len(outputs))
    if rng.random() < 0.02:
        compiled["run_eagerly"] = "True"
    fast = rng.choice(("fast", "fast graph", "fast xla", "fast graph"))
    noises = ("noise", "noise", "noise in full", "noise split")
    chosen = [rng.choice(noises), "cut", fast, rng.choice(("records", "hooks"))]
    case = Case(
        inputs=inputs,
        nodes=nodes,
        outputs=tuple(outputs),
        form=form,
        base=base,
        compile=compiled,
        source=source,
        rows=rows,
        batch=batch,
        spoiled=spoiled,
        weights=weights,
        fit=fit,
        validation=rng.choices(("", "data", *(("split",) if source in ("arrays", "frame") else ())), (6, 1, 2)[: 2 + (source in ("arrays", "frame"))])[0],
        callbacks=tuple(rng.sample(CALLBACKS, rng.choices((0, 1, 2, 3), (10, 4, 2, 1))[0])),
        changes=("nothing", rng.choice(("nothing", "freeze_first", "thaw_and_compile", "compile_as_before", "make_again", "other_optimizer", "lower_rate", "halve_weights")))
        if rng.random() < 0.2
        else (("freeze_first", "thaw_and_compile") if rng.random() < 0.06 else ("nothing",)),
        policy=rng.choices(("", "mixed_float16", "mixed_bfloat16", "float64"), (30, 1.5, 0.7, 0.7))[0],
        variants=("exact", *sorted(rng.sample(chosen, 2))),
        seed=rng.randrange(1000),
    )  # fmt: skip
    try:
        return settled(case)
    except UNFIT as error:
        raise Unfit from error


def settled(case: Case) -> Case:
    """The case with the shapes of its outputs as they come out. Raises what Keras raises."""
    keras.utils.clear_session()
    shapes = result_shapes(case)
    return dataclasses.replace(case, outputs=tuple(dataclasses.replace(each, shape=shape) for each, shape in zip(case.outputs, shapes)))
