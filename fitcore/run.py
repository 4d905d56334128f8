"""All state of a run, reachable from one place."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import keras
import numpy as np

from fitcore import keras_private
from fitcore.data import Stream
from fitcore.engine import Engine
from fitcore.hooks import Fit, Hook, LoopRule, Rules, StoppingRule, View, name_of
from fitcore.outside import Outside, look_outside
from fitcore.program import Chunk
from fitcore.replicas import components


@dataclass(frozen=True)
class StopReason:
    """Why training ended before its last epoch was done.

    Attributes:
      by: the hook's class name, or "callbacks" for Keras's `stop_training`.
      step: optimizer steps done.
      epoch: index of the epoch it happened in.
      reason: in words.
    """

    by: str
    step: int
    epoch: int
    reason: str


class Curve:
    """What was recorded, a value per step, by name."""

    def __init__(self, first_step: int) -> None:
        self.first_step = first_step
        self.length = 0
        self._chunks: list[tuple[int, Mapping[str, np.ndarray]]] = []  # (its first entry's position, values)

        self.columns: list[tuple[str, int]] = []  # (name, how many values per step)

    def append(self, steps: int, records: Mapping[str, np.ndarray]) -> None:
        if records:
            self.columns = [(name, 1 if values.ndim == 1 else values.shape[1]) for name, values in records.items()]
            self._chunks.append((self.length, records))
        self.length += steps

    def table(self, position: int) -> np.ndarray:
        """Values from entry `position` on, float64, a row per step: those of `columns` side by side."""
        values = self.since(position)
        if not values:
            return np.zeros((self.length - position, sum(width for _, width in self.columns)))
        return np.column_stack([values[name] for name, _ in self.columns])

    def load(self, columns: Sequence[tuple[str, int]], table: np.ndarray) -> None:
        """Begin with what another process recorded: its `columns`, and `table(0)`."""
        records, start = {}, 0
        for name, width in columns:
            records[name] = table[:, start] if width == 1 else table[:, start : start + width]
            start += width
        self.append(len(table), records)

    def since(self, position: int) -> dict[str, np.ndarray]:
        """Values from entry `position` on, by name: float64 arrays that can't be written to."""
        parts: dict[str, list[np.ndarray]] = {}
        for start, records in reversed(self._chunks):
            length = len(next(iter(records.values())))
            if start + length <= position:
                break
            for name, values in records.items():
                parts.setdefault(name, []).append(values[max(position - start, 0) :])
        curves = {name: np.concatenate(pieces[::-1]) for name, pieces in parts.items()}
        for values in curves.values():
            values.flags.writeable = False
        return curves


class Validates(Protocol):
    """Evaluates on the validation data."""

    def __call__(self, callbacks: keras.callbacks.CallbackList) -> dict[str, Any]:
        """The logs, without `val_`."""

    def not_exact(self) -> str | None:
        """Why it can't go on exactly in another process, as far as can be known; None if it can."""

    def state(self) -> dict[str, Any] | None:
        """How far its data have been read, as plain values."""

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Go there in another process."""


@dataclass
class Run:
    """A run under way: what it trains with, how far it is, what it has seen.

    Everything that decides what the run does next is in `variables` (on the device) and `host_state` (on the host).
    """

    engine: Engine
    stream: Stream
    hooks: Sequence[Hook]
    callbacks: keras.callbacks.CallbackList
    target: Any  # what Keras's callbacks act on: has stop_training and history
    curve: Curve
    fit: Fit
    validate: Validates | None = None
    epoch: int = 0
    step: int = 0  # optimizer steps done, earlier fits of the same optimizer included
    stop: StopReason | None = None
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    calls: int = 0  # compiled training calls
    seen: list[int] = field(default_factory=list)  # for each hook: entries of the curve it has been shown
    started: float = field(default_factory=time.monotonic)
    traces_before: int = 0
    restore: list[np.ndarray] | None = None  # weights to end with
    logs: Mapping[str, Any] = field(default_factory=dict)  # of the last step
    epoch_logs: Mapping[str, Any] | None = None  # of the last epoch
    rules: Rules | None = None  # of those hooks that have one
    record: Any = ()  # what is recorded at each step
    _warned_non_finite: bool = False

    def __post_init__(self) -> None:
        self.seen = [0] * len(self.hooks)
        self.traces_before = self.engine.traces
        ruled = self._ruled()
        self.rules = Rules(tuple(rule for _, rule in ruled)) if ruled else None
        for hook, rule in ruled:
            hook.loop_state = rule.start() if hook.loop_state is None else hook.loop_state

    def _ruled(self) -> list[tuple[Hook, LoopRule]]:
        return [(hook, hook.in_loop) for hook in self.hooks if hook.in_loop is not None]

    def rule_state(self) -> Any:
        """What the rules start the next compiled call from."""
        return None if self.rules is None else self.rules.pack([hook.loop_state or {} for hook, _ in self._ruled()])

    def wants_to_stop(self, callbacks: bool = True) -> bool:
        """Whether a hook or a Keras callback wants training to end; notes it if it was a callback.

        Args:
          callbacks: whether callbacks are heard now, as they are between two executions.
        """
        if callbacks and self.stop is None and self.target.stop_training:
            self.stop = StopReason("callbacks", self.step, self.epoch, "a Keras callback set `stop_training`")
        agreement = self.engine.agreement
        if agreement is not None and agreement.any(self.stop is not None)[0] and self.stop is None:
            self.stop = StopReason(
                "another worker", self.step, self.epoch, "another worker wants to stop, and all stop together"
            )
        return self.stop is not None

    def note(self, chunk: Chunk) -> None:
        """Take up what a compiled call brought back."""
        steps, records = chunk.steps, chunk.records
        self.calls += 1
        self.step += steps
        self.curve.append(steps, records)
        if self.rules is not None:
            ruled = self._ruled()
            for (hook, _), state in zip(ruled, self.rules.unpack(chunk.carried["state"])):
                hook.loop_state = {name: float(value) for name, value in state.items()}
            if chunk.carried["stopped_by"] >= 0:
                hook, rule = ruled[int(chunk.carried["stopped_by"])]
                assert isinstance(rule, StoppingRule)  # seen to while tracing
                reason = rule.reason(hook.loop_state or {})
                self.stop = self.stop or StopReason(name_of(hook), self.step, self.epoch, reason)
        losses = records.get("step/loss")
        if losses is not None and not self._warned_non_finite and not math.isfinite(losses.sum()):
            bad = np.flatnonzero(~np.isfinite(losses))
            if len(bad):
                self._warned_non_finite = True
                warnings.warn(
                    f"The loss is {losses[bad[0]]} at step {self.step - steps + int(bad[0])} (epoch {self.epoch}). Training "
                    "goes on, as Keras's does; `hooks=[fitcore.StopOn(fitcore.NonFinite(), 'step/loss')]` stops there.",
                    stacklevel=5,
                )

    def view(self, hook_index: int, logs: Mapping[str, Any]) -> View:
        """What hook number `hook_index` is shown now; its records begin where its last view ended."""
        seen = self.seen[hook_index]
        self.seen[hook_index] = self.curve.length
        return View(
            epoch=self.epoch,
            step=self.step,
            epoch_step=self.stream.step,
            steps_per_epoch=self.stream.num_steps,
            logs=MappingProxyType(dict(logs)),
            records=MappingProxyType(self.curve.since(seen)),
            first_step=self.curve.first_step + seen,
            evaluation=MappingProxyType(dict(self.evaluations[-1][1]) if self.evaluations else {}),
            fit=self.fit,
        )

    def variables(self) -> Iterator[tuple[str, Any]]:
        """(name, variable) of all state on the device, each once: weights, seed generators, optimizer, metrics, RNNs' states;
        then what is in none of Keras's lists: see `outside.py`.

        Under a strategy a variable may have a copy on each replica, each with a name of its own.
        """
        yield from self._listed()
        yield from self.outside().variables

    def outside(self) -> Outside:
        """State that is in none of Keras's lists. What the training program alone knows is there once that is traced."""
        engine = self.engine
        own_record = self.record if isinstance(self.record, Mapping) else {}
        roots = {
            "model": engine.model,
            "loss": engine.model.loss if engine.is_compiled else engine.parts.loss,
            "metrics": engine.parts.metrics(),
            "optimizer": engine.parts.optimizer,
            "callbacks": self.callbacks.callbacks,
            "hooks": self.hooks,
            "record": dict(own_record),
        }
        graph = engine.program_graph(self.stream, self.record, self.rules)
        return look_outside(roots, graph, [variable for _, variable in self._listed()])

    def _listed(self) -> Iterator[tuple[str, Any]]:
        """(name, variable) of those that are in Keras's lists."""
        model, optimizer = self.engine.model, self.engine.parts.optimizer
        groups = {
            "model": model.variables,
            "optimizer": getattr(optimizer, "variables", ()),
            "metrics": [variable for metric in self.engine.parts.metrics() for variable in metric.variables],
            "states": _states_kept(model),
        }
        known: set[int] = set()
        for group, variables in groups.items():
            for i, variable in enumerate(variables):
                if id(variable) not in known:
                    known.add(id(variable))
                    for replica, each in enumerate(components(variable)):
                        of_replica = f" of replica {replica}" * (replica > 0)
                        yield f"{group}/{i}/{getattr(variable, 'path', variable.name)}{of_replica}", each

    def host_state(self) -> dict[str, Any]:
        """All state on the host but the curve and what callbacks hold, as plain values and arrays."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "stop": None if self.stop is None else asdict(self.stop),
            "stop_training": bool(self.target.stop_training),
            "evaluations": [[step, dict(values)] for step, values in self.evaluations],
            "calls": self.calls,
            "seconds": time.monotonic() - self.started,
            "seen": list(self.seen),
            "restore": self.restore,
            "logs": dict(self.logs),
            "epoch_logs": None if self.epoch_logs is None else dict(self.epoch_logs),
            "warned_non_finite": self._warned_non_finite,
            "bases": self.engine.bases(),
            "data": self.stream.state(),
            "validation": None if self.validate is None else self.validate.state(),
            "hooks": [hook.state() for hook in self.hooks],
        }

    def load_host_state(self, state: Mapping[str, Any], within: bool, iterator: Path | None) -> None:
        """Take up what another process's `host_state` gave.

        Args:
          state: that.
          within: whether an epoch is under way.
          iterator: as in `Stream.load_state`.
        """
        self.epoch, self.step, self.calls = state["epoch"], state["step"], state["calls"]
        self.stop = None if state["stop"] is None else StopReason(**state["stop"])
        self.target.stop_training = state["stop_training"]
        self.evaluations = [(step, values) for step, values in state["evaluations"]]
        self.started = time.monotonic() - state["seconds"]
        self.seen[: len(state["seen"])] = state["seen"][: len(self.hooks)]  # one that shows progress may be new, or gone
        self.restore = state["restore"]
        self.logs, self.epoch_logs = state["logs"], state["epoch_logs"]
        self._warned_non_finite = state["warned_non_finite"]
        self.engine.load_bases(state["bases"])
        self.stream.load_state(state["data"], within, iterator)
        if self.validate is not None:
            self.validate.load_state(state["validation"])
        for hook, held in zip(self.hooks, state["hooks"]):
            hook.load_state(held)

    def close(self) -> None:
        """However the run ended: hang what it found on Keras's History, and let each hook finish."""
        history = self.target.history
        history.steps = self.curve.since(0)
        history.first_step = self.curve.first_step
        history.stop_reason = self.stop
        history.evaluations = list(self.evaluations)
        history.account = {
            "steps": self.curve.length,
            "calls": self.calls,
            "traces": self.engine.traces - self.traces_before,
            "seconds": time.monotonic() - self.started,
        }
        with contextlib.ExitStack() as ends:  # last in, first out; one that fails doesn't keep the others from ending
            for i in reversed(range(len(self.hooks))):
                ends.callback(self._end_hook, i)

    def _end_hook(self, i: int) -> None:
        self.hooks[i].end(self.view(i, {}))


def _states_kept(model: Any) -> list[keras.Variable]:
    """Those of stateful RNNs, which one batch leaves to the next. They are none of Keras's `model.variables`."""
    stateful = [layer for layer in keras_private.all_layers(model) if getattr(layer, "stateful", False)]
    states = keras.tree.flatten([getattr(layer, "states", None) for layer in stateful])
    return [state for state in states if isinstance(state, keras.Variable)]
