"""Where a difference begins: the first step after which the variables differ, and within it the first result that does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.checking.rollback import Snapshot
from fitcore.checking.trainings import State, by_keras, different, digest, variables
from fitcore.engine import Engine
from fitcore.recording import measured_noise, recorded

Train = Callable[[Any], Any]  # (what looks at each step) -> what the training left


@dataclass(frozen=True)
class Place:
    """Where two trainings first differ.

    Attributes:
      step: the first step after which they do, counted from 0.
      names: the variables that do then.
      difference: the largest one in the first of them; None if it is no number.
    """

    step: int
    names: list[str]
    difference: float | None


def first_step(one: Train, other: Train, put_back: Callable[[], None]) -> Place | None:
    """Compare two trainings after each step, each begun from the same state; None if they don't differ."""
    digests: list[dict[str, bytes]] = []

    def note(step: int, state: State) -> bool:
        digests.append(digest(state))
        return False

    found: tuple[int, State] | None = None

    def compare(step: int, state: State) -> bool:
        nonlocal found
        if found is None and step < len(digests) and digest(state) != digests[step]:
            found = step, state
        return found is not None

    one(note)
    put_back()
    other(compare)
    put_back()
    if found is None:
        return None
    step, state = found
    expected: State = {}

    def keep(at: int, seen: State) -> bool:
        if at == step:
            expected.update(seen)
        return at >= step

    one(keep)
    put_back()
    names = different(expected, state)
    return Place(step, names, _largest(expected.get(names[0]), state.get(names[0])) if names else None)


def _largest(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    if one is None or other is None or one.shape != other.shape or one.dtype.kind not in "fiubV" or not one.size:
        return None
    return float(np.nanmax(np.abs(one.astype(np.float64) - other.astype(np.float64))))


# --- within the step ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """What differs first within a step: in words, and the layer that computes it, if it is one."""

    says: str
    layer: str | None = None


class _ReachedError(Exception):
    def __init__(self, batch: Any) -> None:
        super().__init__("the step to be looked into")
        self.batch = batch


def operation(model: Any, data: Mapping[str, Any], asked: Mapping[str, Any], step: int) -> Operation | None:
    """Make this step in Keras's form and in fitcore's, from the same state and batch, and compare the results one by one.

    The variables are left as they were before the step. None: where it can't be looked into.
    """
    if model.run_eagerly or model.steps_per_execution != 1 or keras_private.strategy_of(model) is not None:
        return None
    train = tf.function(model.train_step, autograph=False, reduce_retracing=True, jit_compile=model.jit_compile or None)
    made = 0

    def run(batch: Any) -> Any:
        nonlocal made
        if made == step:
            raise _ReachedError(batch)
        made += 1
        return train(batch)

    try:
        with keras_private.step_function(model, "train_function", run):
            by_keras(model, data, ())
    except _ReachedError as reached:
        batch = reached.batch
    else:
        return None
    before = Snapshot([model])
    by_keras_now = _results(model, model.train_step, batch)
    before.put_back()
    by_fitcore_now = _results(model, _step_of(model, asked), batch)
    before.put_back()
    return _first(model, by_keras_now, by_fitcore_now)


def _step_of(model: Any, asked: Mapping[str, Any]) -> Callable[[Any], Any]:
    """The step that fitcore traces, without the loop around it."""
    engine = Engine.of_compiled(model)
    hooks: Sequence[Any] = asked.get("hooks", ())
    noise = measured_noise(engine, asked.get("noise", False), hooks)
    step = engine.training_step(recorded(engine, asked.get("record"), hooks, noise))
    return lambda batch: step(batch, tf.constant(0, tf.int64), {})[1]


def _results(model: Any, step: Callable[[Any], Any], batch: Any) -> dict[str, tuple[Any, np.ndarray]]:
    """By name, in the order in which they are computed: (layer or variable, value) of outputs, gradients, variables."""
    owners: dict[str, Any] = {}
    layers = {id(layer) for layer in keras_private.all_layers(model)}
    applied: Any = getattr(model.optimizer, "apply_gradients", None)

    def traced(batch: Any) -> dict[str, tf.Tensor]:
        graph = tf.compat.v1.get_default_graph()
        found: dict[str, tf.Tensor] = {}
        calls: dict[int, int] = {}

        def note(layer: Any, output: Any) -> None:
            if id(layer) not in layers:
                return
            calls[id(layer)] = number = calls.get(id(layer), 0) + 1
            for i, leaf in enumerate(_tensors(output)):
                if getattr(leaf, "graph", None) is graph:  # not within a loop or a branch
                    name = f"output {i} of call {number} of {layer.path or layer.name}"
                    found[name], owners[name] = tf.identity(leaf), layer

        def apply_gradients(grads_and_vars: Any, *more: Any, **named: Any) -> Any:
            pairs = list(grads_and_vars)
            for gradient, variable in reversed(pairs):
                if gradient is not None:
                    name = f"gradient of {variable.path}"
                    found[name], owners[name] = tf.identity(next(_tensors(gradient))), variable
            return applied(pairs, *more, **named)

        with contextlib.ExitStack() as noting:
            noting.enter_context(keras_private.calls_noted(note))
            if model.optimizer is not None:
                noting.enter_context(keras_private.replaced(model.optimizer, "apply_gradients", apply_gradients))
            step(batch)
        return found

    values = tf.function(traced, autograph=False, jit_compile=model.jit_compile or None)(batch)
    results = {name: (owners[name], np.array(values[name])) for name in owners if name in values}
    for name, variable in variables(model):
        results[f"variable {name}"] = variable, np.array(variable)
    return results


def _tensors(value: Any) -> Iterator[Any]:
    for leaf in keras.tree.flatten(value):
        if isinstance(leaf, tf.IndexedSlices):
            yield leaf.values
        elif isinstance(leaf, tf.Tensor):
            yield leaf


def _first(model: Any, one: Mapping[str, tuple[Any, np.ndarray]], other: Mapping[str, tuple[Any, np.ndarray]]) -> Operation:
    for name, (owner, value) in one.items():
        if name in other and value.tobytes() != other[name][1].tobytes():
            difference = _largest(value, other[name][1])
            by = "" if difference is None else f", by up to {difference:.3g}"
            if isinstance(owner, keras.layers.Layer):
                layer = f"{owner.name} ({type(owner).__name__})"
                return Operation(f"the output of layer {layer}, from the same inputs{by}", owner.name)
            if name.startswith("gradient"):
                return Operation(f"the {name}{by}; every layer's output is the same", owner_of(model, owner))
            kind = type(model.optimizer).__name__
            return Operation(
                f"the new value of {owner.path}{by}, by {kind} or a metric; outputs and gradients are the same",
                owner_of(model, owner),
            )
    return Operation(
        "none, where the step is made by itself and each result is read: TensorFlow fuses or orders ops otherwise in the loop"
    )


def owner_of(model: Any, variable: Any) -> str | None:
    """The name of the innermost layer that has this variable; None if none has."""
    having = [layer for layer in keras_private.all_layers(model) if any(each is variable for each in layer.variables)]
    return min(having, key=lambda layer: len(keras_private.all_layers(layer))).name if having else None
