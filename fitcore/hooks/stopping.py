"""Stop rules, and the hook that applies one.

A rule is a pure function of (state, value), both float64 scalars, written in TensorFlow's ops: on a value of each step it is
traced and decides inside the compiled loop, on a value of each epoch it is called on the host. It can be replayed over a
recorded curve, and its state saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from fitcore.hooks.in_loop import LoopState, Outcome, StepSeen
from fitcore.hooks.protocol import EPOCHS, NEVER, Answer, Hook, Stop, View


class StopRule(Protocol):
    """Decides, value by value, whether to stop. Hashable, for example a frozen dataclass."""

    def start(self) -> dict[str, float]:
        """The state before any value."""

    def decide(self, state: LoopState, value: tf.Tensor) -> tuple[LoopState, Any]:
        """(state after `value`, whether to stop). Traced: choose with `tf.where`, not with `if`."""

    def reason(self, state: Mapping[str, float], value: float) -> str:
        """In words, why it stopped at `value`; `state` is the one after it."""


@dataclass(frozen=True)
class Patience:
    """Stop after `patience` values in a row that are no improvement on the best.

    Args:
      patience: how many; at least 1.
      min_delta: an improvement must be larger than this. NaN is never one.
      mode: "min" if smaller is better, "max" if larger.
    """

    patience: int
    min_delta: float = 0.0
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"`patience` must be at least 1. Received: patience={self.patience}")
        _check_mode(self.mode)

    def start(self) -> dict[str, float]:
        return {"best": math.inf if self.mode == "min" else -math.inf, "wait": 0.0}

    def decide(self, state: LoopState, value: tf.Tensor) -> tuple[LoopState, Any]:
        least = value + self.min_delta if self.mode == "min" else value - self.min_delta
        better = least < state["best"] if self.mode == "min" else least > state["best"]  # False for NaN
        wait = tf.where(better, tf.zeros_like(value), state["wait"] + 1)
        return {"best": tf.where(better, value, state["best"]), "wait": wait}, wait >= self.patience

    def reason(self, state: Mapping[str, float], value: float) -> str:
        return f"no improvement on {state['best']:.6g} in {state['wait']:.0f} values"


@dataclass(frozen=True)
class NonFinite:
    """Stop at the first NaN or infinity."""

    def start(self) -> dict[str, float]:
        return {}

    def decide(self, state: LoopState, value: tf.Tensor) -> tuple[LoopState, Any]:
        return state, tf.logical_not(tf.math.is_finite(value))

    def reason(self, state: Mapping[str, float], value: float) -> str:
        return f"the value is {value}"


@dataclass(frozen=True)
class Target:
    """Stop at the first value that reaches `value`: at most it if `mode` is "min", at least it if "max"."""

    value: float
    mode: str = "min"

    def __post_init__(self) -> None:
        _check_mode(self.mode)

    def start(self) -> dict[str, float]:
        return {}

    def decide(self, state: LoopState, value: tf.Tensor) -> tuple[LoopState, Any]:
        return state, value <= self.value if self.mode == "min" else value >= self.value

    def reason(self, state: Mapping[str, float], value: float) -> str:
        return f"{value:.6g} reaches the target {self.value:.6g}"


@dataclass(frozen=True)
class Divergence:
    """Stop at the first value above `factor` times the lowest one so far. For values above zero."""

    factor: float

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise ValueError(f"`factor` must be above 1. Received: factor={self.factor}")

    def start(self) -> dict[str, float]:
        return {"lowest": math.inf}

    def decide(self, state: LoopState, value: tf.Tensor) -> tuple[LoopState, Any]:
        lowest = tf.where(value < state["lowest"], value, state["lowest"])
        return {"lowest": lowest}, value > self.factor * lowest

    def reason(self, state: Mapping[str, float], value: float) -> str:
        return f"{value:.6g} is more than {self.factor:g} times the lowest, {state['lowest']:.6g}"


@dataclass(frozen=True)
class Smoothed:
    """Let `rule` see the running average of the values: exponential, of weight `decay`, its bias at the start corrected.

    `Smoothed(Patience(500), 0.99)` stops on a plateau of the smoothed loss.
    """

    rule: StopRule
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"`decay` must be in [0, 1). Received: decay={self.decay}")

    def start(self) -> dict[str, float]:
        return {"sum": 0.0, "weight": 0.0, **{f"rule/{name}": value for name, value in self.rule.start().items()}}

    def decide(self, state: LoopState, value: tf.Tensor) -> tuple[LoopState, Any]:
        total, weight = self.decay * state["sum"] + value, self.decay * state["weight"] + 1
        inner = {name.removeprefix("rule/"): held for name, held in state.items() if name.startswith("rule/")}
        after, stop = self.rule.decide(inner, total / weight)
        return {"sum": total, "weight": weight, **{f"rule/{name}": held for name, held in after.items()}}, stop

    def reason(self, state: Mapping[str, float], value: float) -> str:
        inner = {name.removeprefix("rule/"): held for name, held in state.items() if name.startswith("rule/")}
        return f"smoothed by {self.decay:g}: {self.rule.reason(inner, state['sum'] / state['weight'])}"


@dataclass(frozen=True)
class _EachStep:
    """A stop rule on a value of each step, as the compiled loop takes it."""

    rule: StopRule
    monitor: str
    changes = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.monitor,)

    def start(self) -> dict[str, float]:
        return {**self.rule.start(), "value": math.nan}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        value = seen.values[self.monitor]
        new, stop = self.rule.decide({name: state[name] for name in state if name != "value"}, value)
        new = {**new, "value": value}
        if self.monitor.startswith("noise/"):  # NaN: nothing was measured in this step
            there = tf.logical_not(tf.math.is_nan(value))
            new = {name: tf.where(there, held, state[name]) for name, held in new.items()}
            stop = tf.logical_and(there, stop)
        return Outcome(new, stop)

    def reason(self, state: Mapping[str, float]) -> str:
        return f"{self.monitor}: {self.rule.reason(state, state['value'])}"


def _check_mode(mode: str) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f'`mode` must be "min" or "max". Received: mode={mode!r}')


class StopOn(Hook):
    """Stops training when `rule` says so of `monitor`.

    Its state lives as long as the hook does: over repeated fits it goes on counting.

    Args:
      rule: when to stop.
      monitor: a key of the epoch logs ("val_loss", "loss", ...), looked at after each epoch; or a value of each step, a name
        with a slash ("step/loss", "noise/trace", ...), looked at inside the compiled loop, which ends at that very step.
    """

    def __init__(self, rule: StopRule, monitor: str = "val_loss") -> None:
        self.rule = rule
        self.monitor = monitor
        self.when = NEVER if "/" in monitor else EPOCHS
        self.record = (monitor,) if monitor.startswith("step/") else ()
        self.in_loop = _EachStep(rule, monitor) if "/" in monitor else None

    def after_epoch(self, view: View) -> Answer:
        if self.monitor not in view.logs:
            raise ValueError(f"`monitor={self.monitor!r}` is not in the epoch's logs, which are {sorted(view.logs)}.")
        value = float(view.logs[self.monitor])
        before = self.rule.start() if self.loop_state is None else self.loop_state
        state, stop = self.rule.decide(
            {name: tf.constant(held, tf.float64) for name, held in before.items()}, tf.constant(value, tf.float64)
        )
        self.loop_state = {name: float(held) for name, held in state.items()}
        return Stop(f"{self.monitor}: {self.rule.reason(self.loop_state, value)}") if stop else None
