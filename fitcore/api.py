"""`fit` and `evaluate`: Keras's arguments in, the engine and the loop below, Keras's results out."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private, loop
from fitcore.data import Stream, make_source
from fitcore.data.sources import source_of
from fitcore.engine import Engine
from fitcore.hooks import BatchSizeSchedule, Hook, InLoop, name_of
from fitcore.noise import NOISE_TOTALS, GradientNoise
from fitcore.noise.dashboard import NoiseEvents
from fitcore.noise.results import curves
from fitcore.optimizers.fused import NUMERICS
from fitcore.schedules import EachEpoch, Schedule
from fitcore.scheduling import BATCH_SIZE, EpochRates, Rows, current, named_schedules
from fitcore.state import Curve, Run


def fit(model: keras.Model, x: Any = None, y: Any = None, **arguments: Any) -> keras.callbacks.History:
    """Train a compiled Keras model: `model.fit`, bit for bit, with many steps per compiled call.

    Takes every argument of `keras.Model.fit` with its meaning and default, and those of `fit_engine` below it.

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
    """
    check_model(model, "fit", x, arguments.get("validation_data"))
    return fit_engine(Engine.of_compiled(model), x, y, **arguments)


def fit_engine(
    engine: Engine,
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
    schedule: Schedule | EachEpoch | Mapping[str, Any] | None = None,
) -> keras.callbacks.History:
    """Train an engine's model. All but the last six arguments are those of `keras.Model.fit`.

    Args:
      engine: what to train.
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
      numerics: "exact": the optimizer's update has the bits of Keras's own, made cheaper where that can be had; "fast": faster
        for Adam and AdamW, above all on weights of 16,384 elements and more; the update differs by less than 1e-4 of its size.
      schedule: the learning rate as a function `step -> value` or `(step, base) -> value`, traced into the loop (see
        `fitcore.schedules`): one of those there, of `keras.optimizers.schedules`, or of one's own; or an `EachEpoch`. Or a
        mapping from what is scheduled to such functions: "learning_rate", "batch_size", and those of "momentum", "rho",
        "beta_1", "beta_2" and "weight_decay" that the optimizer has. `base` is the optimizer's own value when the fit begins
        (the `batch_size` given); its learning rate is put back at the end, so that each of several fits has the same base.
    """
    check_arguments(locals())
    schedules = named_schedules(schedule)
    check_hooks(hooks, schedules)
    own_model = engine.model if engine.is_compiled else None
    target = engine.model if keras_private.is_trainer(engine.model) else engine
    max_epochs = keras.config.max_epochs()
    if max_epochs and max_epochs < epochs:
        warnings.warn(f"Limiting epochs to {max_epochs}", stacklevel=3)
        epochs = max_epochs

    if validation_split and validation_data is None:
        (x, y, sample_weight), validation_data = keras_private.train_validation_split((x, y, sample_weight), validation_split)
    steps_per_epoch = _capped(steps_per_epoch)
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
    )
    each = engine.steps_per_execution
    stream = Stream(source, steps_per_epoch, each, first_pass=initial_epoch)
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
            add_progbar=_shows_bar(verbose),
            verbose=verbose,
            epochs=epochs,
            steps=stream.num_steps,
            model=target,
        )

    measured = measured_noise(engine, noise, hooks)
    record = engine.recorded(record, hooks, measured)
    if measured is not None and measured.directory is not None:
        hooks = [*hooks, NoiseEvents(measured.directory, measured, engine.probe(measured))]
    run = Run(engine, stream, hooks, callbacks, target, Curve(first_step), step=first_step)
    target.stop_training = False
    if validation_data is not None:
        run.validate = _validation(engine, target, validation_data, validation_batch_size or rows, validation_steps)
    try:
        with engine.settings(schedules, numerics):
            engine.train_program(record, run.rules).max_traces = max_traces
            loop.train(
                run,
                epochs=epochs,
                initial_epoch=initial_epoch,
                record=record,
                validation_freq=validation_freq,
                own_model=own_model,
            )
    finally:
        if engine.validation is not None:
            engine.validation = None
            keras_private.drop_validation(engine.model)
        run.close()
        if measured is not None:
            rows = target.history.steps.pop("noise", np.empty((0, 1)))
            noise_found = target.history.noise = curves(rows, first_step, engine.probe(measured), measured)
            target.history.steps |= noise_found.per_step(first_step, len(rows))
    return target.history


def evaluate(
    model: keras.Model | Engine,
    x: Any = None,
    y: Any = None,
    *,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    return_dict: bool = False,
) -> Any:
    """Evaluate a compiled Keras model (or an engine): `model.evaluate`, bit for bit. Arguments and result as there.

    Raises:
      ValueError, TypeError: as Keras.
    """
    if isinstance(model, Engine):
        engine, target = model, model
    else:
        check_model(model, "evaluate", x)
        engine, target = Engine.of_compiled(model), model
    _positive("batch_size", batch_size, optional=True)
    _positive("steps", steps, optional=True)
    steps = _capped(steps)
    source = make_source(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, shuffle=False)
    return _evaluate(engine, target, Stream(source, steps, engine.steps_per_execution), verbose, callbacks, return_dict)


def is_validating(model: Any) -> bool:
    """Whether the model is inside a fit of fitcore's that validates through an `evaluate` of the model's own."""
    engine: Engine | None = vars(model).get("_fitcore_engine")
    return engine is not None and engine.validation is not None


def evaluate_cached(model: keras.Model, verbose: str | int = "auto", callbacks: Any = None, return_dict: bool = False) -> Any:
    """What `evaluate(..., _use_cached_eval_dataset=True)` is inside a fit of fitcore's: its validation data, read on."""
    engine = Engine.of_compiled(model)
    iterator = engine.validation
    stream = Stream(source_of(iterator.data_adapter), iterator.steps_per_epoch, engine.steps_per_execution)
    return _evaluate(engine, model, stream, verbose, callbacks, return_dict)


def _evaluate(
    engine: Engine, target: Any, stream: Stream, verbose: str | int, callbacks: Any, return_dict: bool
) -> dict[str, Any] | list[Any]:
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_progbar=_shows_bar(verbose), verbose=verbose, epochs=1, steps=stream.num_steps, model=target
        )
    logs = loop.evaluate(engine, stream, callbacks, target)
    if return_dict:
        return logs
    return keras_private.flatten_logs(engine.model, logs) if engine.is_compiled else list(logs.values())


def check_model(model: Any, method: str, *data: Any) -> None:
    """Refuse what can't be trained, before anything is done. Arguments as for `why_not`.

    Raises:
      TypeError: not a Keras model.
      ValueError: not compiled (as Keras), or for what `why_not` says.
    """
    if not keras_private.is_trainer(model):
        raise TypeError(f"`model` must be a Keras model. Received: model={model!r} of type {type(model).__name__}")
    keras_private.assert_compiled(model, method)
    reason = why_not(model, method, *data)
    if reason is not None:
        raise ValueError(f"`model` can't be given to fitcore's {method}: {reason}")


def why_not(model: Any, method: str, *data: Any) -> str | None:
    """Why fitcore can't run this method of a Keras model and must leave it to Keras; None if it can.

    Args:
      model: a Keras model.
      method: "fit", "evaluate", "train_on_batch" or "test_on_batch".
      data: what `x` and `validation_data` are.
    """
    training = method in ("fit", "train_on_batch")
    function = "train_function" if training else "test_function"
    if keras_private.overrides(model, f"make_{function}"):
        return f"{type(model).__name__} overrides make_{function}, and with it the loop that fitcore would run."
    if keras_private.has_own_function(model, function):
        return f"its {function} was replaced, and with it the loop that fitcore would run."
    if keras_private.is_distributed(model):
        kind = type(model.distribute_strategy).__name__
        return f"it belongs to a tf.distribute strategy, {kind}; fitcore trains on one device, without one."
    if any(isinstance(given, tf.distribute.DistributedDataset) for given in data):
        return "its data are a tf.distribute.DistributedDataset; fitcore trains on one device."
    if training and model.compiled and model.optimizer is None and not keras_private.overrides(model, "train_step"):
        return "it was compiled without an optimizer. Give `optimizer=` to `compile()`."
    return None


def _validation(engine: Engine, target: Any, data: Any, batch_size: int | None, steps: int | None) -> Any:
    """The function that evaluates on the validation data, which it converts once.

    Arrays and `tf.data.Dataset`s are read and checked at once; other inputs, from which reading alone takes something
    away, after the first epoch, as in Keras.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if engine.is_compiled and keras_private.overrides(engine.model, "evaluate"):
        given = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": batch_size}

        def by_its_own_evaluate(callbacks: keras.callbacks.CallbackList) -> Any:
            if engine.validation is None:
                engine.validation = keras_private.cache_validation(engine.model, **given, steps_per_epoch=steps)
            return engine.model.evaluate(
                **given, steps=steps, callbacks=callbacks, return_dict=True, _use_cached_eval_dataset=True
            )

        return by_its_own_evaluate
    steps = _capped(steps)

    @functools.cache
    def stream() -> Stream:
        try:
            source = make_source(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, shuffle=False)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"`validation_data`: {error}") from error
        return Stream(source, steps, engine.steps_per_execution)

    if isinstance(x, tf.data.Dataset) or keras_private.are_arrays((x, y, sample_weight)):
        stream()
    return lambda callbacks: loop.evaluate(engine, stream(), callbacks, target)


def _capped(steps: int | None) -> int | None:
    most = keras.config.max_steps_per_epoch()
    if most and (not steps or most < steps):
        warnings.warn(f"Limiting steps_per_epoch to {most}", stacklevel=4)
        return int(most)
    return steps


def _shows_bar(verbose: str | int) -> bool:
    return sys.stdout.isatty() if verbose == "auto" else verbose != 0


def changes_batch_size(hooks: Iterable[Hook]) -> bool:
    """Whether one of the hooks may change the batch size."""
    return any("batch_size" in _changes(hook) for hook in hooks)


def _changes(hook: Hook) -> set[str]:
    """The settings that a hook or its rule says it changes."""
    return {*hook.changes, *(hook.in_loop.changes if hook.in_loop else ())}


def first_batch_size(
    batch_size: Any, schedules: Mapping[str, Any], hooks: Sequence[Hook], step: int
) -> tuple[Any, Sequence[Hook]]:
    """(batch size of the first step, the hooks and one more that follows the schedule of the batch size if there is one)."""
    if BATCH_SIZE in schedules:
        if callable(batch_size):
            raise ValueError("`batch_size` is a function already, and `schedule` has one too. Give one of them.")
        batch_size = Rows(schedules[BATCH_SIZE], batch_size or 32)
    if not callable(batch_size):
        return batch_size, hooks
    first = np.asarray(batch_size(tf.constant(step, tf.int64)))
    if first.shape != () or not first >= 1:
        raise ValueError(f"`batch_size(step)` must give a number of at least 1. Received: {first} for step {step}")
    return int(first), [*hooks, InLoop(BatchSizeSchedule(batch_size))]


def measured_noise(engine: Engine, noise: bool | GradientNoise, hooks: Iterable[Hook] = ()) -> GradientNoise | None:
    """What fit's `noise` asks for, or, where it asks for nothing, what a hook's rule reads.

    Raises:
      TypeError, ValueError: it is something else, or the engine's step can't be measured.
    """
    if noise is False or noise is None:
        read = {name for hook in hooks if hook.in_loop for name in hook.in_loop.needs} & set(NOISE_TOTALS)
        if not read:
            return None
        noise = GradientNoise(per_layer=False, evidence="noise/evidence" in read)
    if not isinstance(noise, (bool, GradientNoise)):
        raise TypeError(f"`noise` must be True, False or a fitcore.GradientNoise. Received: noise={noise!r}")
    if engine.has_own_step:
        raise ValueError(
            f"`noise`: {type(engine.model).__name__} has a train_step of its own, whose loss and gradients can't be seen. Put "
            "what is its own into `compute_loss` or `call`, or make an `Engine` of its parts."
        )
    if engine.run_eagerly:
        raise ValueError("`noise` is measured inside the compiled step. Received: a model compiled with run_eagerly=True")
    return GradientNoise() if noise is True else noise


def check_arguments(given: Mapping[str, Any]) -> None:
    """Everything about fit's arguments that can be known without looking at the data."""
    if not callable(given["batch_size"]):
        _positive("batch_size", given["batch_size"], optional=True)
    _positive("validation_batch_size", given["validation_batch_size"], optional=True)
    _positive("steps_per_epoch", given["steps_per_epoch"], optional=True)
    _positive("validation_steps", given["validation_steps"], optional=True)
    _positive("max_traces", given["max_traces"], optional=True)
    _positive("epochs", given["epochs"], least=0)
    _positive("initial_epoch", given["initial_epoch"], least=0)
    if given["numerics"] not in NUMERICS:
        raise ValueError(f'`numerics` must be "exact" or "fast". Received: numerics={given["numerics"]!r}')
    split = given["validation_split"]
    if not isinstance(split, (int, float, np.number)):
        raise TypeError(
            f"`validation_split` must be a number. Received: validation_split={split!r} of type {type(split).__name__}"
        )
    if not 0 <= split < 1:
        raise ValueError(f"`validation_split` must be in [0, 1). Received: validation_split={split}")
    freq = given["validation_freq"]
    if not isinstance(freq, (int, list)) or (isinstance(freq, int) and freq < 1):
        raise ValueError(
            f"`validation_freq` must be an int of at least 1 or a list of epochs. Received: validation_freq={freq!r}"
        )
    if not isinstance(given["hooks"], Sequence):
        raise TypeError(f"`hooks` must be a list of fitcore hooks. Received: hooks={given['hooks']!r}")
    for hook in given["hooks"]:
        if not isinstance(hook, Hook):
            wrong = "Keras callbacks go into `callbacks`. " if isinstance(hook, keras.callbacks.Callback) else ""
            raise TypeError(f"`hooks` must hold fitcore hooks. {wrong}Received: {hook!r} of type {type(hook).__name__}")
    for callback in keras.tree.flatten(given["callbacks"]):
        if isinstance(callback, (Hook, type)):
            wrong = "hooks go into `hooks`" if isinstance(callback, Hook) else "give an instance of this class"
            raise TypeError(f"`callbacks` must hold Keras callbacks; {wrong}. Received: {callback!r}")


def check_hooks(hooks: Sequence[Hook], schedules: Mapping[str, Any]) -> None:
    """Refuse hooks that would change what a schedule sets at each step."""
    for hook in hooks:
        both = sorted(set(schedules) & _changes(hook))
        if both:
            raise ValueError(f"`hooks` holds a {name_of(hook)}, which changes {both}; `schedule` sets that at each step.")


def _positive(name: str, value: Any, least: int = 1, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` must be an int. Received: {name}={value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")
