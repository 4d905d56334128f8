"""Schedules: hyperparameters as functions of the step, traced into the compiled loop.

    fitcore.fit(model, x, y, schedule=Chain((Warmup(500), Cosine(10_000))))                # --schedule=warmup:500,cosine:10000
    fitcore.fit(model, x, y, schedule={"learning_rate": Cosine(1000), "momentum": Polynomial(1000, base=0.85, end=0.95)})

A schedule is any function `step -> value`, or `(step, base) -> value`: `step` is the index of the optimizer step (int64 scalar,
0 for the first, going on over repeated fits of one optimizer), `base` the optimizer's own value (float scalar), which every
schedule below starts from unless its own `base` says otherwise. It is traced once, so it is written in TensorFlow's or Keras's
ops, and must be hashable, as functions and frozen dataclasses are: equal schedules share a compiled program.

What Keras has is computed by Keras's own `keras.optimizers.schedules`, so it has the same bits; a `LearningRateSchedule` object
of Keras's is a schedule too. In a chain, each schedule counts its steps from its start and ends after its `steps`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from fitcore.command_line import registry
from fitcore.command_line.registry import register

Schedule = Callable[..., Any]  # step -> value, or (step, base) -> value

_KERAS = keras.optimizers.schedules


def takes_base(schedule: Schedule) -> bool:
    """Whether a schedule is a function of the base value too.

    Raises:
      TypeError: it can be called neither as `schedule(step)` nor as `schedule(step, base)`.
    """
    try:
        signature = inspect.signature(schedule)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`schedule` must be a function of the step. Received: {schedule!r}") from error
    for arguments, answer in (((0,), False), ((0, 0.0), True)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return answer
    raise TypeError(f"`schedule` must be callable as (step) or (step, base). Received: {schedule!r} with {signature}")


def value_at(schedule: Schedule, step: Any, base: Any) -> Any:
    """The schedule's value, whichever of the two forms it has."""
    return schedule(step, base) if takes_base(schedule) else schedule(step)


def _check(schedule: Any, **least: float) -> None:
    for name, bound in least.items():
        value = getattr(schedule, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= bound:
            raise ValueError(f"`{name}` must be a number of at least {bound}. Received: {name}={value!r}")


def _own(base: float | None, given: Any) -> Any:
    """A schedule's own base if it has one, else the one it is given."""
    return given if base is None else base


@register("schedule", "constant")
@dataclass(frozen=True)
class Constant:
    """The base for `steps` steps, and after that."""

    steps: int
    base: float | None = None

    def __post_init__(self) -> None:
        _check(self, steps=1)

    def __call__(self, step: Any, base: Any) -> Any:
        return tf.convert_to_tensor(_own(self.base, base))


@register("schedule", "warmup")
@dataclass(frozen=True)
class Warmup:
    """From `start` to the base, linearly: start + (base - start) step/steps; then the base.

    The first step has `start`, so with 0 it changes no weight: that is what Keras's `CosineDecay(warmup_steps=...)` does.
    """

    steps: int
    base: float | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        _check(self, steps=1)

    def __call__(self, step: Any, base: Any) -> Any:
        target = tf.convert_to_tensor(_own(self.base, base))
        start, steps = tf.constant(self.start, target.dtype), tf.constant(self.steps, target.dtype)
        step = tf.cast(step, target.dtype)
        return tf.where(step < steps, (target - start) * (step / steps) + start, target)  # Keras's order of operations


@register("schedule", "cosine")
@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the base to `alpha` times it, then constant (Loshchilov & Hutter 2017, eq. 5, without restarts)."""

    steps: int
    base: float | None = None
    alpha: float = 0.0

    def __post_init__(self) -> None:
        _check(self, steps=1)

    def __call__(self, step: Any, base: Any) -> Any:
        return _KERAS.CosineDecay(_own(self.base, base), self.steps, alpha=self.alpha)(step)


@register("schedule", "cosine_restarts")
@dataclass(frozen=True)
class CosineRestarts:
    """Cosines with warm restarts, each `t_mul` times as long as the one before and from `m_mul` times its start
    (Loshchilov & Hutter 2017, eq. 5): `keras.optimizers.schedules.CosineDecayRestarts`."""

    first_steps: int
    base: float | None = None
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        _check(self, first_steps=1, t_mul=1)

    def __call__(self, step: Any, base: Any) -> Any:
        start = _own(self.base, base)
        return _KERAS.CosineDecayRestarts(start, self.first_steps, self.t_mul, self.m_mul, self.alpha)(step)


@register("schedule", "exponential")
@dataclass(frozen=True)
class Exponential:
    """base decay_rate^(step/decay_steps), in whole powers with `staircase`; without end."""

    decay_steps: int
    decay_rate: float
    base: float | None = None
    staircase: bool = False

    def __post_init__(self) -> None:
        _check(self, decay_steps=1, decay_rate=0)

    def __call__(self, step: Any, base: Any) -> Any:
        return _KERAS.ExponentialDecay(_own(self.base, base), self.decay_steps, self.decay_rate, self.staircase)(step)


@register("schedule", "inverse_time")
@dataclass(frozen=True)
class InverseTime:
    """base/(1 + decay_rate step/decay_steps), step/decay_steps rounded down with `staircase`; without end."""

    decay_steps: int
    decay_rate: float
    base: float | None = None
    staircase: bool = False

    def __post_init__(self) -> None:
        _check(self, decay_steps=1, decay_rate=0)

    def __call__(self, step: Any, base: Any) -> Any:
        return _KERAS.InverseTimeDecay(_own(self.base, base), self.decay_steps, self.decay_rate, self.staircase)(step)


@register("schedule", "polynomial")
@dataclass(frozen=True)
class Polynomial:
    """(base - end)(1 - step/steps)^power + end, then `end`; with `cycle` again over ever longer times, as in Keras."""

    steps: int
    base: float | None = None
    end: float = 0.0
    power: float = 1.0
    cycle: bool = False

    def __post_init__(self) -> None:
        _check(self, steps=1)

    def __call__(self, step: Any, base: Any) -> Any:
        return _KERAS.PolynomialDecay(_own(self.base, base), self.steps, self.end, self.power, self.cycle)(step)


@register("schedule", "linear")
def linear(steps: int, base: float | None = None, end: float = 0.0) -> Polynomial:
    """From the base to `end` in a straight line, then `end`."""
    return Polynomial(steps, base, end)


@register("schedule", "piecewise")
@dataclass(frozen=True)
class Piecewise:
    """values[i] from the step after boundaries[i - 1] up to and including boundaries[i], as in Keras; without a base.

    Keras counts so that a value changes one step later than a program with `step < boundary` would have it.
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.boundaries, tuple) or not isinstance(self.values, tuple) or not self.boundaries:
            raise ValueError(
                "`boundaries` and `values` must be tuples (in a spec: [1000,2000]), not empty. "
                f"Received: boundaries={self.boundaries!r}, values={self.values!r}"
            )
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(f"`values` must be one more than `boundaries`. Received: {self.values!r}, {self.boundaries!r}")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"`boundaries` must increase. Received: boundaries={self.boundaries!r}")

    def __call__(self, step: Any) -> Any:
        return _KERAS.PiecewiseConstantDecay(list(self.boundaries), [float(value) for value in self.values])(step)


@register("schedule", "one_cycle")
@dataclass(frozen=True)
class OneCycle:
    """From base/div up to the base and down to base/(div final_div), both in half cosines, then constant.

    Smith & Topin (2018, arXiv:1708.07120), as PyTorch's OneCycleLR has it: the base is the highest value, reached at step
    pct_start steps - 1, and the lowest comes at step steps - 1.
    """

    steps: int
    base: float | None = None
    pct_start: float = 0.3
    div: float = 25.0
    final_div: float = 1e4

    def __post_init__(self) -> None:
        _check(self, steps=2, div=1, final_div=1)
        if not 1 < self.pct_start * self.steps < self.steps:
            raise ValueError(
                "`pct_start` must leave steps on both sides of the peak. "
                f"Received: pct_start={self.pct_start}, steps={self.steps}"
            )

    def __call__(self, step: Any, base: Any) -> Any:
        highest = tf.convert_to_tensor(_own(self.base, base))
        first, last = highest / self.div, highest / (self.div * self.final_div)
        step = tf.cast(tf.minimum(step, self.steps - 1), highest.dtype)
        peak = self.pct_start * self.steps - 1
        up = first + (highest - first) * 0.5 * (1 - tf.cos(math.pi * step / peak))
        down = last + (highest - last) * 0.5 * (1 + tf.cos(math.pi * (step - peak) / (self.steps - 1 - peak)))
        return tf.where(step <= peak, up, down)


@dataclass(frozen=True)
class Chain:
    """One schedule after the other: `Chain((Warmup(500), Cosine(10_000)))`; spec `warmup:500,cosine:10000`.

    Each begins where the one before has made its `steps` (an attribute that all but the last must have), and counts from
    there. A base given to one holds for those after it that have none of their own. All are computed at every step.

    Raises:
      ValueError: one that is not the last has no end.
    """

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("`parts` must hold a schedule. Received: parts=()")
        for part in self.parts[:-1]:
            if not isinstance(getattr(part, "steps", None), int):
                raise ValueError(
                    f"only the last of a chain may have no end (no number of `steps`). Received before it: {part!r}"
                )
        for part in self.parts:
            takes_base(part)

    def __call__(self, step: Any, base: Any) -> Any:
        match self.parts:
            case (Warmup(steps, own, start), Cosine(decay_steps, None, alpha)):
                # Keras has this one, in one piece; in two, TensorFlow turns x/constant into x*(1/constant), other last bits.
                target = _own(own, base)
                return _KERAS.CosineDecay(start, decay_steps, alpha, warmup_target=target, warmup_steps=steps)(step)
        begin, value = 0, None
        for part in self.parts:
            own = getattr(part, "base", None)
            base = base if own is None else tf.constant(own, tf.convert_to_tensor(base).dtype)
            here = tf.convert_to_tensor(value_at(part, step - begin, base))
            value = here if value is None else tf.where(step < begin, value, tf.cast(here, value.dtype))
            begin += getattr(part, "steps", 0)
        return value


class KerasSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Any schedule in the form that Keras's optimizers take as `learning_rate`: `SGD(KerasSchedule(Cosine(1000), 0.1))`.

    Args:
      schedule: of the step, or of step and base.
      base: the base, as the optimizer then has no rate of its own.
    """

    def __init__(self, schedule: Schedule, base: float) -> None:
        self.schedule, self.base = schedule, base

    def __call__(self, step: Any) -> Any:
        return value_at(self.schedule, tf.convert_to_tensor(step), tf.constant(self.base, keras.config.floatx()))


registry.combine["schedule"] = lambda schedules: Chain(tuple(schedules))
