"""The outer loop: epochs, and between them compiled calls of as many steps as the hooks allow.

    callbacks.on_train_begin; hooks begin
    for each epoch:
        reset metrics; callbacks.on_epoch_begin
        until the epoch, or its data, end:
            one compiled call                        # fitcore/program.py, up to the next step that needs the host
            callbacks' batch methods, hooks' after_steps
            leave if anyone wants to stop; save, if it is time for a checkpoint
        validation, if this epoch is one to validate after
        callbacks.on_epoch_end; hooks' after_epoch; save, if it is time
        leave if anyone wants to stop
    overwrite weights by their average, if the optimizer keeps one (EMA); restore those that a hook kept, if it asks for it
    callbacks.on_train_end; hooks end

This is `keras.Model.fit` (3.12 to 3.15), its steps grouped.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from fitcore import keras_private
from fitcore.call_limits import END_OF_DATA, SECONDS_PER_CALL, batch_callbacks, call_limits
from fitcore.checkpoint import Saver
from fitcore.checkpoint.state import FINISHED, IN_EPOCH
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
    saver: Saver | None = None,
) -> None:
    """Run the outer loop.

    Args:
      run: the run, at its start.
      epochs: index of the epoch to end before.
      initial_epoch: index of the first epoch; a callback (BackupAndRestore) may overrule it.
      record: what the compiled loop records at each step.
      validation_freq: as in fit.
      own_model: the compiled Keras model, None for an engine of explicit parts.
      saver: saves the run, and knows where another process left it. What begins a fit, and the epoch that was under way,
        is called again in this process; then everything is put back as it was left.
    """
    engine, callbacks = run.engine, run.callbacks
    left = None if saver is None else saver.where
    with contextlib.nullcontext() if saver is None else saver.appending(run):
        if left != FINISHED:
            callbacks.on_train_begin()
    for i, hook in enumerate(run.hooks):
        hook.begin(run.view(i, {}))
    if own_model is not None:
        initial_epoch = keras_private.initial_epoch(own_model, initial_epoch)
    if saver is not None and left is not None:
        initial_epoch = saver.epoch + (not saver.within)
        if not saver.within:
            saver.put_back(run, record)
        if left == FINISHED:
            return

    for epoch in range(initial_epoch, epochs):
        # Another process left it so. A callback's own wish waits for a step, as in Keras, and what is still to be put back
        # within an epoch says itself whether anyone wanted to stop.
        if saver is not None and left is not None and not saver.within and run.wants_to_stop():
            break
        run.epoch = epoch
        engine.reset_metrics()
        callbacks.on_epoch_begin(run.epoch)
        resumed = saver is not None and saver.within
        if saver is not None and resumed:
            saver.put_back(run, record)
        first, asked_in_vain = run.step, False
        if not resumed or left == IN_EPOCH:
            asked_in_vain = _epoch_steps(run, record, saver, resumed)
        if saver is not None:
            saver.steps_done(run)
        watched = run.hooks or batch_callbacks(callbacks.callbacks, "train")
        untouched = run.step > first and not asked_in_vain and not watched
        epoch_logs = dict(engine.epoch_logs(run.logs, untouched))

        if run.validate is not None and _should_validate(own_model, run.epoch, validation_freq):
            with contextlib.nullcontext() if saver is None else saver.validation(run):
                epoch_logs |= {f"val_{name}": value for name, value in run.validate(callbacks).items()}

        callbacks.on_epoch_end(run.epoch, epoch_logs)
        run.epoch_logs = epoch_logs
        shown = keras_private.pythonify(epoch_logs)
        for i, hook in enumerate(run.hooks):
            if hook.when.epochs:
                _carry_out(run, hook, hook.after_epoch(run.view(i, shown)))
        if saver is not None:
            saver.after_epoch(run)
        if run.wants_to_stop():
            break

    optimizer = engine.parts.optimizer  # the one that the model has now: a callback may have compiled it anew
    if isinstance(optimizer, keras.optimizers.Optimizer) and epochs > 0:
        optimizer.finalize_variable_values(engine.parts.trainable())
    if run.restore is not None:
        run.engine.set_weights(run.restore)
    callbacks.on_train_end(logs=run.epoch_logs)
    if saver is not None:
        saver.finished(run)


def _epoch_steps(run: Run, record: Any, saver: Saver | None, resumed: bool) -> bool:
    """One epoch's steps, or those that are left of it; leaves the logs of the last one in `run.logs`.

    Returns:
      Whether a step was begun for which there was no batch any more. Metrics may have counted its rows.
    """
    stream, callbacks = run.stream, run.callbacks
    watching = batch_callbacks(callbacks.callbacks, "train")
    watched = bool(call_limits(callbacks.callbacks, (), stream.steps_per_execution))  # a callback must see every execution
    if not resumed:
        stream.begin_epoch()
    elif run.wants_to_stop():
        return False
    begin_step = ran = 0  # of the execution under way: its first step as callbacks count, and how many steps have run
    while stream.remaining() != 0:
        if watching and ran == 0:
            begin_step = stream.execution_step
            try:
                callbacks.on_train_batch_begin(begin_step)
            except END_OF_DATA:
                stream.interrupted()
                return False
        # Keras looks at `stop_training` after each execution, never before one.
        one_more = bool(run.target.stop_training)
        steps, seconds = _steps_until_needed(run, saver), SECONDS_PER_CALL
        if watched or one_more:
            left = stream.left_of_execution()
            steps = min(steps or left, left)
        if watched:
            seconds = math.inf
        run.engine.check_step("train", stream.steps_per_execution)
        if saver is not None:
            saver.before_first_call(run)
        rules, state = run.rules, run.rule_state()
        chunk = run.engine.train(stream, steps, index=run.step, seconds=seconds, record=record, rules=rules, state=state)
        ran += chunk.steps
        if ran == 0:
            stream.out_of_data()
            return True
        if chunk.steps > 0:
            run.logs = chunk.logs
            run.note(chunk)
        in_parts = watched or one_more
        whole = not in_parts or stream.at_execution() or chunk.ended or stream.remaining() == 0
        interrupted = False
        if watching and whole:
            end_step = begin_step + stream.steps_per_execution if watched else stream.step
            try:
                callbacks.on_train_batch_end(end_step - 1, run.logs)
            except END_OF_DATA:
                interrupted = True
        if chunk.steps > 0:
            _after_steps(run, chunk.steps, run.logs)
        if interrupted:
            stream.interrupted(ran)
            return False
        if whole:
            ran = 0
        if run.wants_to_stop(callbacks=whole):
            if watching and not whole:
                callbacks.on_train_batch_end(begin_step + ran - 1, run.logs)
            return False
        if whole and saver is not None:
            saver.after_call(run)
    stream.end_epoch()
    return False


def _steps_until_needed(run: Run, saver: Saver | None) -> int | None:
    """Steps to the next one after which a hook or the saver needs the host; None if none does."""
    done = run.curve.length
    left = [hook.when.steps - done % hook.when.steps for hook in run.hooks if hook.when.steps is not None]
    due = None if saver is None else saver.steps_until_due(done)
    return min([*left, *([] if due is None else [due])], default=None)


def _after_steps(run: Run, steps: int, logs: Mapping[str, Any]) -> None:
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
