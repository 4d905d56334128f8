"""What a hook may have run inside the compiled loop, after each step: a rule that stops it there or changes a setting.

A rule is traced, so it is written in TensorFlow's ops, and costs no return to the host. It is a pure function: its state goes
in and comes out, so it can be replayed over a recorded curve, called eagerly, and saved.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

SETTINGS = ("learning_rate", "batch_size")  # what a rule, a schedule or `Set` may change

LoopState = Mapping[str, Any]  # float64 scalars by name; floats on the host


@dataclass(frozen=True)
class StepSeen:
    """What a rule sees of the step that was just made. Traced; float64 scalars but for `step`.

    Attributes:
      step: its index, int64.
      examples: rows in its batch.
      values: what the rule's `needs` name: recorded scalars, such as "step/loss", metrics, or of the gradient noise
        "noise/trace", "noise/grad_norm_sq", "noise/batch_size" (all NaN in steps that were not measured).
    """

    step: tf.Tensor
    examples: tf.Tensor
    values: Mapping[str, tf.Tensor]


@dataclass(frozen=True)
class Outcome:
    """What a rule decides after a step.

    Attributes:
      state: its state from now on, the same names as before.
      stop: whether this step is to be the last; a bool scalar.
      settings: values from the next step on, by names of `SETTINGS`.
    """

    state: LoopState
    stop: Any = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class LoopRule(Protocol):
    """Decides after each step, inside the compiled loop. Hashable: equal rules are served by one program."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the values it reads."""

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of the settings it changes."""

    def start(self) -> dict[str, float]:
        """Its state before the first step."""

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        """Its decision, traced."""


@runtime_checkable
class StoppingRule(LoopRule, Protocol):
    """A rule that may stop the training."""

    def reason(self, state: Mapping[str, float]) -> str:
        """In words, why it stopped in this state. On the host."""


@dataclass(frozen=True)
class Rules:
    """Several rules as one function of one vector, for the loop to carry."""

    rules: tuple[LoopRule, ...]

    def pack(self, states: Sequence[Mapping[str, float]]) -> tf.Tensor:
        """The rules' states as one float64 vector."""
        return tf.constant([state[name] for rule, state in zip(self.rules, states) for name in rule.start()], tf.float64)

    def unpack(self, vector: Any) -> list[dict[str, Any]]:
        """The rules' states from such a vector (a tensor or an array)."""
        names = [tuple(rule.start()) for rule in self.rules]
        position = itertools.count()
        return [{name: vector[next(position)] for name in each} for each in names]

    def after_step(self, vector: tf.Tensor, seen: StepSeen) -> tuple[tf.Tensor, tf.Tensor, dict[str, Any]]:
        """(their states after the step, index of the first one that stops or -1 as int64, changed settings), traced."""
        states: list[Any] = []
        stopped_by = tf.constant(-1, tf.int64)
        settings: dict[str, Any] = {}
        for i, (rule, state) in enumerate(zip(self.rules, self.unpack(vector))):
            outcome = rule.after_step(state, seen)
            if set(outcome.state) != set(state):
                raise ValueError(f"{rule!r}: its state has {sorted(state)} at the start, {sorted(outcome.state)} after a step.")
            if outcome.stop is not False and not isinstance(rule, StoppingRule):
                raise TypeError(
                    f"{rule!r} may stop the training, so it needs a `reason(state)`, a method that says why it did."
                )
            undeclared = sorted(set(outcome.settings) - set(rule.changes))
            if undeclared:
                raise ValueError(f"{rule!r} sets {undeclared}, but its `changes` are {rule.changes!r}.")
            states += [tf.cast(outcome.state[name], tf.float64) for name in state]
            first = tf.logical_and(stopped_by < 0, tf.convert_to_tensor(outcome.stop))
            stopped_by = tf.where(first, tf.constant(i, tf.int64), stopped_by)
            settings |= outcome.settings
        return tf.stack(states) if states else vector, stopped_by, settings
