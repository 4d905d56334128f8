"""A fit that is cut and started again, beside the same one undisturbed; for test_checkpoint*.py and test_properties.py."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import fitcore
from fitcore.checkpoint import randomness

SEED = 1234


class Cut(Exception):
    """What cuts a fit."""


class Cutting(fitcore.Hook):
    """Cuts the fit after this many of its steps. Compiled calls end there, and nowhere else for its sake."""

    def __init__(self, after: int | None) -> None:
        self.when = fitcore.NEVER if after is None else fitcore.When(steps=after, epochs=False)

    def after_steps(self, view: fitcore.View) -> None:
        raise Cut


class CuttingAt(keras.callbacks.Callback):
    """Cuts the fit at the `count`-th call of a method."""

    def __init__(self, method: str | None, count: int = 1) -> None:
        super().__init__()
        self._left = count
        if method is not None:
            setattr(self, method, self._call)

    def _call(self, *arguments: Any, **more: Any) -> None:
        self._left -= 1
        if self._left == 0:
            raise Cut

    def state(self) -> None:
        return None

    def load_state(self, state: None) -> None:
        pass


Make = Callable[[Path], dict[str, Any]]  # a folder for what callbacks write -> fit's arguments, the model among them
Where = int | tuple[str, int] | None  # after how many steps; or in which call of which callback method; never


class Case:
    """A fit that can be had again and again.

    Args:
      make: fit's arguments, all new but the model.
      folder: for checkpoints and all else that is written.
      fresh: `make` makes a new model for each fit, as another process would; else its variables are put back: no new tracing.
      seeded: set all seeds before each fit; else the model is left as it is too.
    """

    def __init__(self, make: Make, folder: Path, fresh: bool = False, seeded: bool = True) -> None:
        self._make, self._folder, self._fresh, self._seeded = make, folder, fresh, seeded
        self._model: Any = None
        self.history: Any = None

    def fit(self, name: str, cut: Where = None, checkpoint: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """What is there after the fit: every byte that the promise speaks of.

        Args:
          name: of the folder for what it writes.
          cut: where to cut it; then `Cut` is raised.
          checkpoint: arguments of `Checkpoint` but the folder; None: without one.
        """
        folder = self._folder / name
        (folder / "written").mkdir(parents=True, exist_ok=True)
        if self._fresh:
            keras.utils.clear_session()
        if self._seeded:
            keras.utils.set_random_seed(SEED)
        arguments = self._make(folder / "written") | changes
        self._model = model = arguments["model"]
        if not self._fresh and self._seeded:
            self._put_back(folder)
        steps, call = (cut, None) if not isinstance(cut, tuple) else (None, cut)
        arguments["hooks"] = [*arguments.get("hooks", []), Cutting(steps)]
        arguments["callbacks"] = [*arguments.get("callbacks", []), CuttingAt(*(call or (None,)))]
        if checkpoint is not None:
            arguments["checkpoint"] = fitcore.Checkpoint(folder / "checkpoints", **checkpoint)
        if self._seeded:
            keras.utils.set_random_seed(SEED)
        self.history = None
        self.history = fitcore.fit(**{"verbose": 0} | arguments)
        return outcome(model, self.history)

    def _put_back(self, folder: Path) -> None:
        """Everything as it was when the model was first seen; what a first epoch made, as that left it."""
        if id(self._model) not in _starts:
            before = {id(variable): variable.numpy() for variable in all_variables(self._model)}
            (folder / "first").mkdir()
            fitcore.fit(
                **{"verbose": 0}
                | self._make(folder / "first")
                | {"epochs": 1, "initial_epoch": 0, "hooks": [], "callbacks": []}
            )
            values = [before.get(id(variable), variable.numpy()) for variable in all_variables(self._model)]
            _starts[id(self._model)] = (self._model, values)
        for variable, value in zip(all_variables(self._model), _starts[id(self._model)][1]):
            variable.assign(value)
        self._model._initial_epoch = 0  # BackupAndRestore sets it, and Keras doesn't forget it


_starts: dict[int, tuple[Any, list[np.ndarray]]] = {}  # by model: it and its variables' first values


def all_variables(model: Any) -> list[Any]:
    """All of a model, or of an engine: weights, seed generators, optimizer, metrics."""
    engine = model if isinstance(model, fitcore.Engine) else None
    module = model if engine is None else engine.model
    optimizer = model.optimizer if engine is None else engine.parts.optimizer
    metrics = model.metrics if engine is None else engine.parts.metrics()
    return [*module.variables, *getattr(optimizer, "variables", ()), *(v for metric in metrics for v in metric.variables)]


def outcome(model: Any, history: keras.callbacks.History) -> dict[str, Any]:
    """What must be alike, by name."""
    noise = getattr(history, "noise", None)
    found = {
        "variables": [variable.numpy().tobytes() for variable in all_variables(model)],
        "history": plain(history.history),
        "epochs": list(history.epoch),
        "curves": {name: values.tobytes() for name, values in history.steps.items()},
        "first_step": history.first_step,
        "steps": history.account["steps"],
        "stop_reason": history.stop_reason,
        "evaluations": plain(history.evaluations),
        "noise": None if noise is None else [np.asarray(each).tobytes() for each in (noise.scale, noise.trace, noise.step)],
        "random": plain(randomness.state()),
    }
    return copy.deepcopy(found)


def plain(value: Any) -> Any:
    """Nested values that `==` compares byte by byte."""
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(held) for held in value]
    if value is None or isinstance(value, str):
        return value
    return np.asarray(value).tobytes()


def differing(want: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return [name for name in want if want[name] != got[name]]


def assert_survives(case: Case, *cuts: Where, again: bool = False, **checkpoint: Any) -> None:
    """Cut at each of these places, and start again: the end is that of the undisturbed fit.

    Args:
      case: what to fit.
      cuts: where. Several in one tuple of a list: one after the other, in one fit.
      again: ask for the finished fit once more.
      checkpoint: arguments of `Checkpoint`; every 2 steps if nothing is said.
    """
    checkpoint = {"every": "2 steps"} | checkpoint
    want = case.fit("undisturbed")
    for i, cut in enumerate(cuts):
        for where in cut if isinstance(cut, list) else [cut]:
            was_cut = False
            try:
                case.fit(f"cut{i}", where, checkpoint)
            except Cut:
                was_cut = True
            gc.collect()  # what holds files open in a process ends with it
            assert was_cut, f"not cut at {where}"
        got = case.fit(f"cut{i}", None, checkpoint)
        assert differing(want, got) == [], f"cut at {cut}"
        if again:
            assert differing(want, case.fit(f"cut{i}", None, checkpoint)) == [], f"answered, after it was cut at {cut}"
