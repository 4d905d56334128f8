"""One step of a training program, put together: what is scheduled, the step itself, what is recorded, what rules decide.

under(schedules), fused(update):         # fitcore/schedules/hyperparameters.py, fitcore/optimizers/fused.py
    train_step(parts, batch)             # fitcore/step.py; or the model's own
records from the logs
rules.after_step                         # fitcore/hooks/in_loop.py
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fitcore import aside
from fitcore.graph_loop import Carried
from fitcore.hooks import SETTINGS, Rules, StepSeen
from fitcore.noise import NOISE_TOTALS, GradientNoise, Probe
from fitcore.program import StepFunction
from fitcore.replicas import Replicas
from fitcore.schedules.hyperparameters import Schedules, under
from fitcore.step import (
    RECORDERS,
    Parts,
    Recorder,
    check_logs,
    metric_results,
    rows_of,
    set_learning_rate,
    test_step,
    train_step,
)


def training_step(
    parts: Parts,
    own_step: Callable[[Any], Any] | None,
    recorders: Mapping[str, Recorder | None],
    *,
    probes: Mapping[str, Probe],
    for_optimizer: Probe | None,
    rules: Rules | None,
    schedules: Schedules,
    update: Callable[[], contextlib.AbstractContextManager[None]],
    replicas: Replicas | None,
) -> StepFunction:
    """The step function of a training program.

    Args:
      parts: what the step is made of.
      own_step: the model class's own `train_step`, in place of fitcore's.
      recorders: what to record; None stands for "take it from the logs".
      probes: what measures the gradient noise, for those recorders that are `GradientNoise`s.
      for_optimizer: what measures it for the optimizer.
      rules: decide after each step.
      schedules: of the step alone, by hyperparameter.
      update: the context in which the optimizer's update is traced.
      replicas: those that the step is run on; None: one device, without a strategy.
    """
    measuring, name_for_optimizer = dict(probes), None
    if for_optimizer is not None:  # its own, unless the fit records the very same
        same = (name for name, probe in probes.items() if probe is for_optimizer)
        name_for_optimizer = next(same, "noise of the optimizer")
        measuring.setdefault(name_for_optimizer, for_optimizer)
    computed = {name: recorder for name, recorder in recorders.items() if recorder is not None and name not in probes}
    from_logs = [name for name, recorder in recorders.items() if recorder is None]
    needs = set() if rules is None else {name for rule in rules.rules for name in rule.needs}

    def one(batch: Any, index: tf.Tensor) -> tuple[Any, dict[str, Any]]:
        recorded: dict[str, Any] = {}
        if own_step is not None:
            logs = check_logs(own_step(batch), "train_step")
        else:
            logs, recorded = train_step(parts, batch, index, computed, measuring, name_for_optimizer)
        if from_logs:
            values = metric_results(parts.metrics()) if logs is None else logs
            unknown = sorted(set(from_logs) - set(values))
            if unknown:
                raise ValueError(
                    f"`record` names {unknown}, but there are only {sorted(RECORDERS)} and the logs {sorted(values)}."
                )
            recorded = recorded | {name: values[name] for name in from_logs}
        return logs, recorded

    run = one if replicas is None else replicas.on_each(one, {*RECORDERS, *measuring})
    if replicas is not None and replicas.several:
        update = contextlib.nullcontext  # Keras's own sums the gradients

    def step(batch: Any, index: tf.Tensor, carried: Carried) -> tuple[Any, dict[str, Any], Carried]:
        with under(schedules, parts.optimizer, index), update():
            logs, recorded = run(batch, index)
        if rules is not None:
            values = {name: tf.cast(recorded[name], tf.float64) for name in recorded if name in needs}
            for name, probe in probes.items():
                values |= probe.totals(recorded[name])
            rows = rows_of(batch) if replicas is None else replicas.sum(rows_of, batch)
            seen = StepSeen(index, tf.cast(rows, tf.float64), values)
            state, stopped_by, settings = rules.after_step(carried["state"], seen)
            carried = {**carried, "state": state, "stopped_by": stopped_by} | _set(parts.optimizer, settings)
        return logs, aside.settle((logs, carried), recorded), carried

    return step


def evaluation_step(parts: Parts, own_step: Callable[[Any], Any] | None, replicas: Replicas | None) -> StepFunction:
    """The step function of an evaluating program. Arguments as above."""

    def one(batch: Any, index: tf.Tensor) -> tuple[Any, dict[str, Any]]:
        return (test_step(parts, batch) if own_step is None else check_logs(own_step(batch), "test_step")), {}

    run = one if replicas is None else replicas.on_each(one)
    return lambda batch, index, carried: (*run(batch, index), carried)


def check_rules(rules: Rules | None, recorders: Mapping[str, Recorder | None]) -> None:
    """Refuse rules that can't work in a program that records this.

    Raises:
      TypeError: a rule can't be hashed.
      ValueError: it reads what is not recorded, or changes what no rule may.
    """
    noises: list[Any] = [recorder for recorder in recorders.values() if isinstance(recorder, GradientNoise)]
    known = {*recorders, *(name for noise in noises for name in NOISE_TOTALS if noise.evidence or "evidence" not in name)}
    for rule in () if rules is None else rules.rules:
        try:
            hash(rule)
        except TypeError as error:
            raise TypeError(f"{rule!r} must be hashable, as a frozen dataclass is: equal rules share a program.") from error
        if not set(rule.needs) <= known:
            raise ValueError(f"{rule!r} reads {sorted(set(rule.needs) - known)}; what this run records is {sorted(known)}.")
        if not set(rule.changes) <= set(SETTINGS):
            raise ValueError(f"{rule!r} changes {rule.changes!r}; what a rule may change is {SETTINGS!r}.")


def check_noise(optimizer: Any, own_step: bool, run_eagerly: bool) -> None:
    """Refuse an optimizer that needs the gradient noise where it can't be measured.

    Raises:
      ValueError: the model has a step of its own, or steps run op by op.
    """
    if getattr(optimizer, "noise", None) is not None and (own_step or run_eagerly):
        raise ValueError(
            f"{type(optimizer).__name__} needs the gradient noise, which is measured inside fitcore's own compiled step. "
            f"Received: {'run_eagerly=True' if run_eagerly else 'a model with a train_step of its own'}"
        )


def _set(optimizer: Any, settings: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Change settings from the next step on, traced; returns those that the loop carries."""
    changed = {}
    for name, value in settings.items():
        if name == "learning_rate":
            set_learning_rate(optimizer, value)
        else:
            rows = tf.cast(value, tf.int64)
            message = "`batch_size` was set to less than 1 by a hook or a schedule."
            with tf.control_dependencies([tf.debugging.assert_positive(rows, message)]):
                changed["rows"] = tf.identity(rows)
    return changed
