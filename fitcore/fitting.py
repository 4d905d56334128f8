"""`fit`: Keras's arguments in, the engine and the loop below, Keras's results out."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private, loop
from fitcore.arguments import (
    capped,
    changes_batch_size,
    check_arguments,
    check_count,
    check_hooks,
    first_batch_size,
    shows_bar,
    with_brought,
)
from fitcore.checkpoint import Checkpoint, Saver
from fitcore.checkpoint.fingerprint import of_fit as fingerprint_of
from fitcore.data import Stream, make_source
from fitcore.description import describe
from fitcore.distributed_fit import check_strategy
from fitcore.engine import Engine
from fitcore.hooks import Fit, Hook
from fitcore.hooks.noise_events import NoiseEvents
from fitcore.noise import GradientNoise
from fitcore.noise.results import curves
from fitcore.plans import choose
from fitcore.recording import measured_noise, recorded
from fitcore.run import Curve, Run
from fitcore.schedules import EachEpoch, Schedule
from fitcore.schedules.each_epoch import EpochRates
from fitcore.schedules.hyperparameters import current, named_schedules
from fitcore.supported import check_model
from fitcore.validation import Validation

# Called with each fit's arguments before anything is done, where it is set: by it --dry_run explains, and leaves.
on_begin: Callable[[Mapping[str, Any]], None] | None = None


def fit(
    model: keras.Model | Engine,
    x: Any = None,
    y: Any = None,
    *,
    batch_size: int | Callable[[tf.Tensor], Any] | None = None,
    epochs: int = 1,
    verbose: str | int = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: Any = True,
    class_weight: dict[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | list[int] = 1,
    hooks: Sequence[Hook] = (),
    record: Iterable[str] | Mapping[str, Any] | None = None,
    max_traces: int | None = None,
    noise: bool | GradientNoise = False,
    numerics: str = "exact",
    plan: str = "auto",
    schedule: Schedule | EachEpoch | Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> keras.callbacks.History:
    """Train a compiled Keras model: `model.fit`, bit for bit, with many steps per compiled call.

    Takes every argument of `keras.Model.fit`, with its meaning and default; those from `hooks` on are fitcore's own.

    Args:
      model: what to train: a compiled Keras model, or an `Engine` of parts given one by one.
      x, y ... validation_freq: as in `keras.Model.fit`. `batch_size` may also be a function of the step's index (int64 scalar)
        that gives the rows of that step's batch, traced into the loop: one program serves all sizes, and an epoch is one pass
        over the rows, in as many steps as it takes. `verbose="auto"` shows a bar on a terminal and nothing in a pipe.
      shuffle: True, False or "batch", as in Keras; or a `fitcore.Reshuffle(seed)`, another order in each epoch that can be
        computed again.
      hooks: fitcore hooks, called in this order.
      record: scalars to record at each step: names from `fitcore.RECORDERS` ("step/loss", "step/learning_rate",
        "step/gradient_norm") or of metrics, or a mapping from names to recorders. None: "step/loss", unless the model has
        a train_step of its own. What hooks want recorded comes on top.
      max_traces: raise `RetraceError` instead of tracing more than this many training programs for the engine.
      noise: measure the gradient noise at each step: True, or a `fitcore.GradientNoise` that says how. It changes no bit of
        the training. The result is `history.noise`, a `fitcore.noise.NoiseCurves`.
      numerics: "exact": the bits of `model.fit`. "fast": last bits may differ: from the same weights the update of one step
        differs by less than 1e-4 of its size (float32; WORKSPACE.md, "The fast tier", says where by more). Evaluation stays
        exact.
      plan: with numerics="fast", in which form a step is made: "graph", by TensorFlow's kernels, "xla", blocks of steps as one
        XLA program, or "auto", the faster one: measured for a few dozen steps before the first fit of its kind, with everything
        put back, and remembered on disk (see `fitcore/plans.py`). `fitcore.explain` says which and why.
      schedule: the learning rate as a function `step -> value` or `(step, base) -> value`, traced into the loop (see
        `fitcore.schedules`): one of those there, of `keras.optimizers.schedules`, or of one's own; or an `EachEpoch`. Or a
        mapping from what is scheduled to such functions: "learning_rate", "batch_size", and those of "momentum", "rho",
        "beta_1", "beta_2" and "weight_decay" that the optimizer has. `base` is the optimizer's own value when the fit begins
        (the `batch_size` given); its learning rate is put back at the end, so that each of several fits has the same base.
      checkpoint: save the fit as it runs, so that the same call in another process goes on from there, and ends in the bits of
        one that was never killed: see `fitcore.Checkpoint`. A fit that was finished is answered from its recorded end.

    Returns:
      The History that `model.fit` returns, which is `model.history` too, with these attributes more:
        steps: what was recorded, by name: float64 arrays with one entry per optimizer step. `"step/loss"` is each batch's
          own loss; `history["loss"]` is, as in Keras, the running mean over each epoch.
        first_step: index of the step that their first entry belongs to.
        stop_reason: a `StopReason`, or None if training ran to its last epoch.
        evaluations: [(steps done, {"val_...": value})] of the evaluations that hooks asked for.
        noise: with `noise=`, what was measured: a `fitcore.noise.NoiseCurves`; its totals are in `steps` too, as "noise/...".
        account: {"steps", "calls" (compiled calls), "traces" (programs traced), "seconds"}.

    Raises:
      ValueError, TypeError: as Keras, and for arguments that make no sense, before any step has run.
      RetraceError: if more programs had to be traced than `max_traces`.
      CheckpointError: what `checkpoint` names can't be gone on from.
      Preempted: after SIGTERM or SIGINT, with a `checkpoint`: the fit has saved itself, and the process exits with status 75.
    """
    if not isinstance(model, Engine):
        check_model(model, "fit", x, validation_data)
    given = dict(locals())
    check_arguments(given)
    if on_begin is not None:
        on_begin(given)
    engine = model if isinstance(model, Engine) else Engine.of_compiled(model, "train")
    check_count("steps_per_execution", engine.steps_per_execution)
    schedules = named_schedules(schedule)
    check_hooks(hooks, schedules)
    own_model = engine.model if engine.is_compiled else None
    target = engine.model if keras_private.is_trainer(engine.model) else engine
    max_epochs = keras.config.max_epochs()
    if max_epochs and max_epochs < epochs:
        warnings.warn(f"Limiting epochs to {max_epochs}", stacklevel=2)
        epochs = max_epochs

    if validation_split and validation_data is None:
        (x, y, sample_weight), validation_data = keras_private.train_validation_split((x, y, sample_weight), validation_split)
    steps_per_epoch = capped(steps_per_epoch)
    first_step = engine.steps_done()
    rows, hooks = first_batch_size(batch_size, schedules, hooks, first_step)
    source = make_source(
        x,
        y,
        sample_weight,
        batch_size=rows,
        steps_per_epoch=steps_per_epoch,
        shuffle=shuffle,
        class_weight=class_weight,
        resizable=changes_batch_size(hooks),
        strategy=engine.strategy,
    )
    each = engine.steps_per_execution
    stream = Stream(source, steps_per_epoch, each, first_pass=initial_epoch)
    if engine.replicas is not None:
        engine.replicas.build(engine.model, source)
    stream.reset()

    if isinstance(schedules.get("learning_rate"), EachEpoch):
        current(engine.parts.optimizer, "learning_rate")
        each_epoch = EpochRates(schedules["learning_rate"].function, engine.parts.optimizer)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            raise TypeError("`schedule` as an EachEpoch goes with callbacks in a plain list. Received: a CallbackList")
        callbacks = [*keras.tree.flatten(callbacks or []), each_epoch]
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=shows_bar(verbose),
            verbose=verbose,
            epochs=epochs,
            steps=stream.num_steps,
            model=target,
        )

    measured, population = measured_noise(engine, noise, hooks), getattr(source, "num_rows", math.inf)
    record = recorded(engine, record, hooks, measured)
    if measured is not None and measured.directory is not None:
        hooks = [*hooks, NoiseEvents(measured.directory, measured, engine.probe(measured), population)]
    check_strategy(engine, {**given, "hooks": hooks}, source, measured, record)
    asked, hooks = hooks, with_brought(hooks, callbacks.callbacks)
    about = Fit(
        epochs=epochs,
        batch_size=getattr(source, "batch_size", None) if stream.rows is None else None,
        jit_compile=engine.jit_compile and not engine.run_eagerly,
        describe=lambda: describe(engine, {**given, "hooks": asked}, source.describe(), stream),
        step_graph=lambda: engine.step_graph(stream, record, run.rules),
        noise_scale=lambda: None if measured is None else _noise_scale(run.curve, engine, measured, population),
        history=lambda: target.history,
    )
    run = Run(engine, stream, hooks, callbacks, target, Curve(first_step), about, step=first_step, record=record)
    target.stop_training = False
    keeps = hasattr(target.history, "fingerprint")  # what was trained, and on which data
    fingerprint = fingerprint_of(engine, source, given) if keeps or checkpoint is not None else {}
    if keeps:
        target.history.fingerprint = fingerprint
    if validation_data is not None:
        run.validate = Validation(engine, target, validation_data, validation_batch_size or rows, validation_steps)
    try:
        with contextlib.ExitStack() as stack:
            saver = None
            if checkpoint is not None:
                saver = stack.enter_context(Saver(checkpoint, fingerprint))
                saver.begin(run, record)
            stack.enter_context(engine.settings(schedules, numerics))
            if saver is not None and saver.where is not None:
                engine.by_xla = saver.by_xla
            elif numerics == "fast":
                engine.by_xla = choose(run, record, plan)
            engine.train_program(record, run.rules).max_traces = max_traces
            loop.train(
                run,
                epochs=epochs,
                initial_epoch=initial_epoch,
                record=record,
                validation_freq=validation_freq,
                own_model=own_model,
                saver=saver,
            )
    finally:
        if engine.validation is not None:
            engine.validation = None
            keras_private.drop_validation(engine.model)
        run.close()
        del run.fit  # they hold each other: the data are to go with the fit, not with some later garbage collection
        if measured is not None:
            rows = target.history.steps.pop("noise", np.empty((0, 1)))
            noise_found = target.history.noise = curves(rows, first_step, engine.probe(measured), measured, population)
            target.history.steps |= noise_found.per_step(first_step, len(rows))
    return target.history


def _noise_scale(curve: Curve, engine: Engine, measured: GradientNoise, population: float) -> float:
    """As of the last measured step; NaN if there is none yet, or it is undetermined."""
    position = 0 if measured.memory is None else max(curve.length - measured.memory, 0)
    rows = curve.since(position).get("noise", np.empty((0, 1)))
    scale = curves(rows, position, engine.probe(measured), measured, population).scale if len(rows) else rows
    return float(scale[-1]) if len(scale) else math.nan
