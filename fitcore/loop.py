"""The outer loop: epochs, and between them compiled calls of as many steps as the hooks allow.

    callbacks.on_train_begin; hooks begin
    for each epoch:
        reset metrics; callbacks.on_epoch_begin
        until the epoch, or its data, end:
            one compiled call                        # fitcore/program.py, up to the next step that needs the host
            callbacks' batch methods, hooks' after_steps
            leave if anyone wants to stop
        validation, if this epoch is one to validate after
        callbacks.on_epoch_end; hooks' after_epoch
        leave if anyone wants to stop
    overwrite weights by their average, if the optimizer keeps one (EMA); restore those that a hook kept, if it asks for it
    callbacks.on_train_end; hooks end

This is `keras.Model.fit` (3.12 to 3.15), its steps grouped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from fitcore import keras_private
from fitcore.call_limits import SECONDS_PER_CALL, batch_callbacks, call_limits
from fitcore.hooks import Answer, Evaluate, Hook, Keep, Request, Restore, Save, Set, Stop, name_of
from fitcore.run import Run, StopReason
from fitcore.step import set_learning_rate


def train(
    run: Run,
    *,
    epochs: int,
    initial_epoch: int,
    record: Any,
    validation_freq: int | list[int],
    own_model: Any | None,
) -> None:
    """Run the outer loop.

    Args:
      run: the run, at its start.
      epochs: index of the epoch to end before.
      initial_epoch: index of the first epoch; a callback (BackupAndRestore) may overrule it.
      record: what the compiled loop records at each step.
      validation_freq: as in fit.
      own_model: the compiled Keras model, None for an engine of explicit parts.
    """
    engine, callbacks, optimizer = run.engine, run.callbacks, run.engine.parts.optimizer
    callbacks.on_train_begin()
    for i, hook in enumerate(run.hooks):
        hook.begin(run.view(i, {}))
    training_logs = None
    logs: dict[str, Any] = {}
    if own_model is not None:
        initial_epoch = keras_private.initial_epoch(own_model, initial_epoch)

    for run.epoch in range(initial_epoch, epochs):
        engine.reset_metrics()
        callbacks.on_epoch_begin(run.epoch)
        logs = _epoch_steps(run, record, logs)
        epoch_logs = dict(engine.epoch_logs(logs))

        if run.validate is not None and _should_validate(own_model, run.epoch, validation_freq):
            epoch_logs |= {f"val_{name}": value for name, value in run.validate(callbacks).items()}

        callbacks.on_epoch_end(run.epoch, epoch_logs)
        training_logs = epoch_logs
        shown = keras_private.pythonify(epoch_logs)
        for i, hook in enumerate(run.hooks):
            if hook.when.epochs:
                _carry_out(run, hook, hook.after_epoch(run.view(i, shown)))
        if run.wants_to_stop():
            break

    if isinstance(optimizer, keras.optimizers.Optimizer) and epochs > 0:
        optimizer.finalize_variable_values(engine.parts.trainable())
    if run.restore is not None:
        run.engine.set_weights(run.restore)
    callbacks.on_train_end(logs=training_logs)


def _epoch_steps(run: Run, record: Any, logs: dict[str, Any]) -> dict[str, Any]:
    """One epoch's steps; returns the logs after the last one."""
    stream, callbacks = run.stream, run.callbacks
    watching = batch_callbacks(callbacks.callbacks, "train")
    watched = bool(call_limits(callbacks.callbacks, (), stream.steps_per_execution))  # a callback must see every execution
    stream.begin_epoch()
    begin_step = ran = 0  # of the execution under way: its first step as callbacks count, and how many steps have run
    while stream.remaining() != 0:
        if watching and ran == 0:
            begin_step = stream.execution_step
            callbacks.on_train_batch_begin(begin_step)
        steps, seconds = _steps_until_needed(run), SECONDS_PER_CALL
        if watched:
            left = stream.steps_per_execution - ran
            steps, seconds = min(steps or left, left), math.inf
        rules, state = run.rules, run.rule_state()
        chunk = run.engine.train(stream, steps, index=run.step, seconds=seconds, record=record, rules=rules, state=state)
        ran += chunk.steps
        if ran == 0:
            stream.out_of_data()
            return logs
        if chunk.steps > 0:
            logs = chunk.logs
            run.note(chunk)
        whole = not watched or ran == stream.steps_per_execution or chunk.ended or stream.remaining() == 0
        if watching and whole:
            end_step = begin_step + stream.steps_per_execution if watched else stream.step
            callbacks.on_train_batch_end(end_step - 1, logs)
        if chunk.steps > 0:
            _after_steps(run, chunk.steps, logs)
        if whole:
            ran = 0
        if run.wants_to_stop():
            if watching and not whole:
                callbacks.on_train_batch_end(begin_step + ran - 1, logs)
            return logs
    stream.end_epoch()
    return logs


def _steps_until_needed(run: Run) -> int | None:
    """Steps to the next one after which a hook needs the host; None if none does."""
    done = run.curve.length
    return min((h.when.steps - done % h.when.steps for h in run.hooks if h.when.steps is not None), default=None)


def _after_steps(run: Run, steps: int, logs: dict[str, Any]) -> None:
    done = run.curve.length
    due = []
    for i, hook in enumerate(run.hooks):
        n = hook.when.steps
        if hook.when.returns or (n is not None and done // n > (done - steps) // n):
            due.append((i, hook))
    if due:
        shown = keras_private.pythonify(logs)
        for i, hook in due:
            _carry_out(run, hook, hook.after_steps(run.view(i, shown)))


def _carry_out(run: Run, hook: Hook, answer: Answer) -> None:
    """Do what a hook asked for."""
    requests: Sequence[Request] = [] if answer is None else [answer] if isinstance(answer, Request) else list(answer)
    for request in requests:
        match request:
            case Stop(reason):
                run.stop = run.stop or StopReason(name_of(hook), run.step, run.epoch, reason)
            case Save(path):
                save = run.engine.model.save_weights if str(path).endswith(".weights.h5") else run.engine.model.save
                save(path)
            case Evaluate():
                if run.validate is None:
                    raise ValueError(f"{name_of(hook)} asks to evaluate, but fit was given no `validation_data`.")
                with run.engine.metrics_kept():
                    values = run.validate(keras.callbacks.CallbackList())
                run.evaluations.append((run.step, {f"val_{name}": value for name, value in values.items()}))
            case Keep():
                hook.kept = run.engine.get_weights()
            case Restore():
                run.restore = hook.kept
            case Set("learning_rate", value):
                if "learning_rate" in run.engine.schedules:
                    raise ValueError(f"{name_of(hook)} sets the learning rate, which `schedule` sets at each step.")
                set_learning_rate(run.engine.parts.optimizer, value)
            case Set("batch_size", value):
                if run.stream.rows is None:
                    raise ValueError(
                        f"{name_of(hook)} sets the batch size, which is fixed in this fit: its `changes` must name it."
                    )
                if value < 1:
                    raise ValueError(f"{name_of(hook)} sets the batch size to {value}; it must be at least 1.")
                run.stream.rows = int(value)
            case _:
                raise ValueError(f"{name_of(hook)} returned {request!r}, which is none of {Request}.")


def _should_validate(own_model: Any | None, epoch: int, validation_freq: int | list[int]) -> bool:
    if own_model is not None:
        return keras_private.should_evaluate(own_model, epoch, validation_freq)
    return epoch + 1 in validation_freq if isinstance(validation_freq, list) else (epoch + 1) % validation_freq == 0
