"""A case trained by Keras and by fitcore in its variants, and compared byte by byte."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fitcore
from benchmarks.fast_distance import STEP, TIMES, nudge
from benchmarks.parity.comparison import Outcome, difference, same_bytes, train
from benchmarks.parity.setup import Case

# --- from here on, a script that is printed has this file's text


@dataclass(frozen=True)
class Result:
    """What became of a case in one variant: "same", "differs", "raises", "refused", or what speaks against the case."""

    variant: str
    verdict: str
    says: str = ""


FAILURES = ("differs", "raises")


class Cut(Exception):
    """What cuts a fit."""


class Cutting(fitcore.Hook):
    """Cuts the fit after so many of its steps; None: never."""

    def __init__(self, after: int | None) -> None:
        self.when = fitcore.NEVER if after is None else fitcore.When(steps=after, epochs=False)

    def after_steps(self, view: fitcore.View) -> None:
        raise Cut


class Looking(fitcore.Hook):
    """Looks every two steps, and asks for nothing."""

    when = fitcore.every(2)


class By:
    """fitcore with these arguments more, made anew for each fit."""

    def __init__(self, more: Callable[[int], dict[str, Any]], fitcore: Any = fitcore) -> None:
        self._more, self._count, self._fitcore = more, -1, fitcore

    def fit(self, model: Any, **given: Any) -> Any:
        self._count += 1
        return self._fitcore.fit(model, **given, **self._more(self._count))

    def evaluate(self, model: Any, **given: Any) -> Any:
        return self._fitcore.evaluate(model, **given)


VARIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "exact": dict,
    "noise": lambda: {"noise": True},
    "noise in full": lambda: {"noise": fitcore.GradientNoise(every=2, per_layer=True, evidence=True)},
    "noise split": lambda: {"noise": fitcore.GradientNoise("split", splits=2)},
    "records": lambda: {"record": ["step/loss", "step/learning_rate", "step/gradient_norm"], "hooks": [Looking()]},
    "hooks": lambda: {"hooks": [Looking()]},
    "cut": dict,
    "fast": lambda: {"numerics": "fast", "plan": "auto"},
    "fast graph": lambda: {"numerics": "fast", "plan": "graph"},
    "fast xla": lambda: {"numerics": "fast", "plan": "xla"},
}


def held_by(thing: Any, depth: int = 3) -> Iterator[Any]:
    """Variables that an object holds in attributes, lists and dicts, some levels deep."""
    if isinstance(thing, (tf.Variable, keras.Variable)):
        yield thing
    elif isinstance(thing, keras.optimizers.Optimizer):
        yield from thing.variables
    elif isinstance(thing, (list, tuple)):
        for each in thing:
            yield from held_by(each, depth)
    elif isinstance(thing, Mapping):
        yield from held_by(list(thing.values()), depth)
    elif depth and isinstance(thing, (keras.Layer, keras.losses.Loss, keras.metrics.Metric)):
        for name, each in vars(thing).items():
            if name not in ("_tracker", "_inbound_nodes", "_outbound_nodes", "history", "_parent_path"):
                yield from held_by(each, depth - 1)


def state(model: Any) -> dict[str, np.ndarray]:
    """All that training may have written beside Keras's own lists: metrics, own optimizers, plain variables."""
    found: dict[int, Any] = {}
    for thing in (*model.metrics, model, *model._flatten_layers(), getattr(model, "loss", None)):
        for variable in held_by(thing, 2):
            found.setdefault(id(variable), variable)
    return {f"state {i} {getattr(each, 'path', each.name)}": each.numpy() for i, each in enumerate(found.values())}


def parity_case(case: Mapping[str, Any], first_step: bool = False, nudged: bool = False) -> Case:
    """A case as benchmarks.parity trains it. `first_step`: one step of it, and what is kept is how far the weights go."""

    def build() -> Any:
        model = case["make"]()

        def run(by: Any) -> dict[str, Any]:
            reported: dict[str, Any] = {}
            for i, change in enumerate(case["FITS"][: 1 if first_step else None]):
                change(model)
                given, checked = case["arguments"]()
                if first_step:
                    given = {
                        "x": checked["x"],
                        "y": checked["y"],
                        "batch_size": case["BATCH"],
                        "steps_per_epoch": 1,
                        "shuffle": False,
                    }
                    given |= {"verbose": 0}
                    if not model.built:
                        model.evaluate(**checked, batch_size=case["BATCH"], verbose=0)
                    if nudged:
                        nudge(model)
                    before = [variable.numpy().astype("float64") for variable in model.trainable_variables]
                    by.fit(model, **given)
                    after = [variable.numpy().astype("float64") for variable in model.trainable_variables]
                    return {f"moved {i}": b - a for i, (a, b) in enumerate(zip(before, after))}
                history = by.fit(model, **given)
                reported |= {f"fit {i} {name}": values for name, values in history.history.items()}
                for j, callback in enumerate(given.get("callbacks", ())):
                    if hasattr(callback, "seen"):
                        reported[f"fit {i} callback {j}"] = np.asarray(callback.seen)
            reported |= state(model)
            if not case["EVALUATED"]:
                return reported
            evaluated = by.evaluate(model, **checked, batch_size=case["BATCH"], verbose=0, return_dict=True)
            return reported | {f"evaluate {name}": value for name, value in evaluated.items()}

        return model, run

    return Case("hunted", build)


def differing(want: Outcome, got: Outcome) -> str:
    """What differs, by how much at most."""
    lines = []
    for part in ("weights", "optimizer", "history"):
        a, b = getattr(want, part), getattr(got, part)
        if list(a) != list(b):
            lines.append(f"{part}: names {sorted(a.keys() ^ b.keys()) or 'in another order'}")
        for name in a.keys() & b.keys():
            if (a[name].dtype, a[name].shape, a[name].tobytes()) != (b[name].dtype, b[name].shape, b[name].tobytes()):
                lines.append(f"{name} by {difference({name: a[name]}, {name: b[name]}):.3g}")
    return f"{len(lines)} differ: " + "; ".join(sorted(lines)[:4])


def refused(error: Exception) -> bool:
    """Whether fitcore itself raised it, as an answer to what was asked."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    own = os.path.dirname(fitcore.__file__)
    if isinstance(error, fitcore.CheckpointError):
        return "can't be kept" in str(error)  # which it warns of where exactness is no must
    return isinstance(error, (ValueError, TypeError)) and frame.filename.startswith(own) and "`" in str(error)


def in_short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [""]
    node = next((i for i, line in enumerate(lines) if line.startswith("[[{{node")), 1)  # the kernel's message stands before it
    return f"{type(error).__name__}: {lines[node - 1][:300]}"


def cut_and_resumed(case: Mapping[str, Any], after: int, by: Any) -> Outcome:
    """What is there when the case was cut after so many steps of its first fit and begun once more, all objects new."""
    with tempfile.TemporaryDirectory() as folder:

        def saved(i: int, after: int | None) -> dict[str, Any]:
            every, there = "2 steps" if case["CUT"] > 1 else "1 step", Path(folder, str(i))
            resume = "must" if after is None and i == 0 and any(there.glob("*-*")) else "auto"
            checkpoint = fitcore.Checkpoint(there, every=every, resume=resume)
            return {"checkpoint": checkpoint, "hooks": [Cutting(after if i == 0 else None)]}

        try:
            train(parity_case(case), By(lambda i: saved(i, after), by))
        except Cut:
            return train(parity_case(case), By(lambda i: saved(i, None), by))
        raise Short


class Short(Exception):
    """The fit was over before it was cut."""


def trained(case: Mapping[str, Any], variant: str, want: Outcome, by: Any = fitcore) -> Result:
    """Trains a case by fitcore in a variant, and compares it with what Keras left."""
    try:
        if variant.startswith("fast"):
            return fast(case, variant, by)
        if variant == "cut":
            got = cut_and_resumed(case, case["CUT"], by)
        else:
            got = train(parity_case(case), By(lambda i: VARIANTS[variant](), by))
    except Short:
        return Result(variant, "refused", "over before it could be cut")
    except Exception as error:
        return Result(variant, "refused" if refused(error) else "raises", in_short(error))
    return Result(variant, "same") if same_bytes(want, got) else Result(variant, "differs", differing(want, got))


def fast(case: Mapping[str, Any], variant: str, by: Any) -> Result:
    """The first step in the fast tier, within its tolerance or that of an exact step from nudged weights."""

    def moved(nudged: bool, by: Any) -> np.ndarray:
        found = train(parity_case(case, True, nudged), by).history
        return np.concatenate([np.zeros(1), *(value.ravel() for value in found.values())])

    try:
        want = moved(False, keras.Model)
    except Exception as error:  # the case itself may never have got to a step
        return Result(variant, "refused", f"Keras can't make the first step: {in_short(error)}")
    got = moved(False, By(lambda i: VARIANTS[variant](), by))
    size = float(np.linalg.norm(want))
    off = float(np.linalg.norm(got - want))
    if not np.isfinite(size) or off <= STEP * size:
        return Result(variant, "same")
    tolerated = TIMES * float(np.linalg.norm(moved(True, keras.Model) - want))
    if off <= tolerated:
        return Result(variant, "same")
    return Result(
        variant, "differs", f"the first step's update, by {off / size:.3g} of its size; tolerated {tolerated / size:.3g}"
    )


def judge(case: Mapping[str, Any], variants: tuple[str, ...], by: Any = fitcore, repeat: bool = True) -> list[Result]:
    """A result for each variant; one alone if Keras can't train the case, or not twice alike.

    Without `repeat` Keras trains it a second time only where something is not the same.
    """
    try:
        want = train(parity_case(case), keras.Model)
    except Exception as error:
        return [Result("Keras", "invalid", in_short(error))]
    results = [trained(case, variant, want, by) for variant in variants]
    if repeat or any(each.verdict in FAILURES for each in results):
        again = train(parity_case(case), keras.Model)
        if not same_bytes(want, again):
            return [Result("Keras", "unlike itself", differing(want, again))]
    return results


def show(case: Mapping[str, Any], variants: tuple[str, ...]) -> int:
    """Prints what became of each variant; 1 if one failed."""
    start = time.perf_counter()
    results = judge(case, variants)
    for each in results:
        print(f"{each.variant}: {each.verdict} {each.says}")
    print(f"{time.perf_counter() - start:.1f} s")
    return int(any(each.verdict in FAILURES for each in results))
