"""`evaluate`: one pass over the data, its steps grouped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from fitcore import keras_private
from fitcore.arguments import capped, check_callbacks, check_count, shows_bar
from fitcore.call_limits import END_OF_DATA, SECONDS_PER_CALL, batch_callbacks
from fitcore.data import Stream, make_source
from fitcore.data.making import source_of
from fitcore.engine import Engine
from fitcore.supported import check_model


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
    **unknown: Any,
) -> Any:
    """Evaluate a compiled Keras model (or an engine): `model.evaluate`, bit for bit. Arguments and result as there.

    Raises:
      ValueError, TypeError: as Keras; a ValueError for arguments that aren't known.
    """
    if isinstance(model, Engine):
        engine, target = model, model
    else:
        check_model(model, "evaluate", x)
        engine, target = Engine.of_compiled(model), model
    if unknown:
        raise ValueError(f"`evaluate` has no such arguments. Received: {unknown}")
    check_count("steps_per_execution", engine.steps_per_execution)
    check_callbacks(callbacks)
    check_count("batch_size", batch_size, optional=True)
    check_count("steps", steps, optional=True)
    steps = capped(steps)
    source = make_source(
        x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, shuffle=False, strategy=engine.strategy, trains=False
    )
    return _evaluated(engine, target, Stream(source, steps, engine.steps_per_execution), verbose, callbacks, return_dict)


def is_validating(model: Any) -> bool:
    """Whether the model is inside a fit of fitcore's that validates through an `evaluate` of the model's own."""
    engine: Engine | None = vars(model).get("_fitcore_engine")
    return engine is not None and engine.validation is not None


def evaluate_cached(model: keras.Model, verbose: str | int = "auto", callbacks: Any = None, return_dict: bool = False) -> Any:
    """What `evaluate(..., _use_cached_eval_dataset=True)` is inside a fit of fitcore's: its validation data, read on."""
    engine = Engine.of_compiled(model)
    iterator = engine.validation
    source = source_of(iterator.data_adapter, strategy=engine.strategy)
    stream = Stream(source, iterator.steps_per_epoch, engine.steps_per_execution)
    return _evaluated(engine, model, stream, verbose, callbacks, return_dict)


def _evaluated(
    engine: Engine, target: Any, stream: Stream, verbose: str | int, callbacks: Any, return_dict: bool
) -> dict[str, Any] | list[Any]:
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_progbar=shows_bar(verbose), verbose=verbose, epochs=1, steps=stream.num_steps, model=target
        )
    logs = evaluate_pass(engine, stream, callbacks, target)
    if return_dict:
        return logs
    return keras_private.flatten_logs(engine.model, logs) if engine.is_compiled else list(logs.values())


def evaluate_pass(engine: Engine, stream: Stream, callbacks: keras.callbacks.CallbackList, target: Any) -> dict[str, Any]:
    """Evaluate on a whole pass: `keras.Model.evaluate`, its steps grouped. Returns the logs as Python floats."""
    watching = batch_callbacks(callbacks.callbacks, "test")
    watched = not all(map(keras_private.idle_between_epochs, watching))
    if engine.replicas is not None:
        engine.replicas.build(engine.model, stream.source)
    stream.reset()
    engine.follow("test")
    target.stop_evaluating = False
    callbacks.on_test_begin()
    logs: Mapping[str, Any] = {}
    engine.reset_metrics()
    stream.begin_epoch()
    while stream.remaining() != 0:
        begin_step = stream.execution_step
        if watching:
            try:
                callbacks.on_test_batch_begin(begin_step)
            except END_OF_DATA:
                stream.interrupted()
                break
        # Keras looks at `stop_evaluating` after each execution, never before one.
        in_parts = watched or bool(target.stop_evaluating)
        steps, seconds = stream.left_of_execution() if in_parts else None, math.inf if watched else SECONDS_PER_CALL
        engine.check_step("test", stream.steps_per_execution)
        chunk = engine.evaluate_steps(stream, steps, seconds=seconds)
        if chunk.steps == 0:
            stream.out_of_data()
            break
        logs = chunk.logs
        if watching:
            end_step = begin_step + stream.steps_per_execution if watched else stream.step
            try:
                callbacks.on_test_batch_end(end_step - 1, logs)
            except END_OF_DATA:
                stream.interrupted(chunk.steps)
                break
        if target.stop_evaluating and (not in_parts or stream.at_execution() or chunk.ended):
            break
    else:
        stream.end_epoch()
    result = keras_private.pythonify(engine.epoch_logs(logs))
    callbacks.on_test_end(result)
    return result
