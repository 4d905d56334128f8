"""How schedules get to the optimizer: which hyperparameters can be scheduled, their base values, and the step under them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.hooks import Hook
from fitcore.schedules.each_epoch import EachEpoch
from fitcore.schedules.functions import Schedule, takes_base, value_at
from fitcore.step import set_learning_rate

# What can be scheduled besides "learning_rate", of an optimizer that has it. Keras holds these as Python numbers.
HYPERPARAMETERS = ("momentum", "rho", "beta_1", "beta_2", "weight_decay")
BATCH_SIZE = "batch_size"  # belongs to the data, not to the optimizer

Schedules = Mapping[str, Any]


def named_schedules(schedule: Any) -> dict[str, Any]:
    """fit's `schedule` by the name of what is scheduled.

    Args:
      schedule: None, a schedule of the learning rate, or a mapping from names to schedules.

    Raises:
      TypeError: it is something else.
    """
    given = dict(schedule) if isinstance(schedule, Mapping) else {} if schedule is None else {"learning_rate": schedule}
    for name, each in given.items():
        if isinstance(each, Hook):
            raise TypeError(f"`schedule`: {type(each).__name__} is a hook; give it in `hooks`.")
        if isinstance(each, EachEpoch):
            if name != "learning_rate":
                raise TypeError(f"`schedule`: EachEpoch sets the learning rate only. Received: it for {name!r}")
            continue
        if not callable(each):
            hint = f" A spec is made a schedule by fitcore.make('schedule', {each!r})." if isinstance(each, str) else ""
            raise TypeError(f"`schedule` must be a function of the step.{hint} Received for {name!r}: {each!r}")
        takes_base(each)
        try:
            hash(each)
        except TypeError as error:
            raise TypeError(
                f"`schedule` must be hashable, as functions and frozen dataclasses are: equal ones share a program. "
                f"Received for {name!r}: {each!r}"
            ) from error
    return given


@dataclass(frozen=True)
class Based:
    """A schedule of (step, base) as one of the step alone. The base, a variable, may change without a new trace."""

    schedule: Schedule
    base: tf.Variable = field(compare=False, repr=False)

    def __call__(self, step: Any) -> Any:
        return self.schedule(step, tf.convert_to_tensor(self.base))


@dataclass(frozen=True)
class Rows:
    """A schedule of the batch size as a function of the step alone that gives a whole number of rows, int64, by rounding."""

    schedule: Schedule
    base: float

    def __call__(self, step: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(value_at(self.schedule, step, tf.constant(self.base)))
        return tf.cast(tf.round(value) if value.dtype.is_floating else value, tf.int64)


def current(optimizer: Any, name: str) -> float | None:
    """The optimizer's own value of a hyperparameter.

    Raises:
      ValueError: it can't be scheduled: the optimizer has none, has a schedule in it already, or no velocity for a momentum.
    """
    kind = type(optimizer).__name__
    if hasattr(optimizer, "optimizers"):
        raise ValueError(f"`schedule`: {kind} holds several optimizers; give each a schedule of Keras's as its learning_rate.")
    if name == "learning_rate":
        if isinstance(optimizer, keras.optimizers.Optimizer) and keras_private.has_own_schedule(optimizer):
            raise ValueError(
                f"`schedule`: the {kind} already has a schedule as its learning_rate; give it a number, or drop one."
            )
        if not hasattr(optimizer, "learning_rate"):
            raise ValueError(f"`schedule`: {kind} has no `learning_rate`.")
        return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
    known = [each for each in HYPERPARAMETERS if each in vars(inner)]
    if name not in known:
        can = ", ".join(["learning_rate", *known])
        raise ValueError(f"`schedule`: {type(inner).__name__} has no {name!r} that can be scheduled. It has: {can}.")
    value = vars(inner)[name]
    if name == "momentum" and not value:
        raise ValueError(f"`schedule`: a {type(inner).__name__} with momentum=0 keeps no velocity; give it a momentum above 0.")
    return None if value is None else float(value)


class _Traced:
    """A momentum in the graph. Keras asks in Python whether it is 0, to know whether there is a velocity: there is one."""

    def __init__(self, value: tf.Tensor) -> None:
        self._value, self.dtype, self.shape = value, value.dtype, value.shape

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return self._value if dtype is None else tf.cast(self._value, dtype)

    def __ne__(self, other: object) -> bool:
        return True if other == 0 else NotImplemented

    def __gt__(self, other: object) -> bool:
        return True if other == 0 else NotImplemented

    def __bool__(self) -> bool:
        return True

    def __mul__(self, other: Any) -> tf.Tensor:
        return self._value * other

    def __sub__(self, other: Any) -> tf.Tensor:
        return self._value - other

    def __rsub__(self, other: Any) -> tf.Tensor:
        return other - self._value

    __rmul__ = __mul__


@contextlib.contextmanager
def under(schedules: Schedules, optimizer: Any, step: tf.Tensor) -> Iterator[None]:
    """Within it the optimizer has the values that the schedules give for this step. Entered while the step is traced.

    The learning rate of a Keras optimizer is a variable, which is assigned; what an optimizer holds as a Python number is
    replaced by the value in the graph, and put back when the step has been traced.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, schedule in schedules.items():
            value = _scalar(name, schedule, step)
            holder = vars(getattr(optimizer, "inner_optimizer", optimizer))
            if name == "learning_rate" and not holds_number(optimizer):
                set_learning_rate(optimizer, value)
            else:
                replaced.append((holder, name, holder[name]))
                holder[name] = _Traced(value) if name == "momentum" else value
        yield
    finally:
        for holder, name, value in replaced:
            holder[name] = value


def holds_number(optimizer: Any) -> bool:
    """Whether its learning rate is a plain number: within `under` it is replaced, it can't be set."""
    return isinstance(vars(optimizer).get("learning_rate"), (int, float))


def _scalar(name: str, schedule: Schedule, step: tf.Tensor) -> tf.Tensor:
    try:
        value = tf.convert_to_tensor(schedule(step))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`schedule` of {name!r}, {schedule!r}: {error}") from error
    if value.shape.rank != 0:
        raise ValueError(f"`schedule` of {name!r} must give a scalar. Received: shape {value.shape} from {schedule!r}")
    return tf.cast(value, keras.config.floatx())
