"""What a fit validates with, after its epochs and when a hook asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.arguments import capped
from fitcore.data import Stream, make_source
from fitcore.engine import Engine
from fitcore.errors import NoDataError
from fitcore.evaluation import evaluate_pass


def validator(
    engine: Engine, target: Any, data: Any, batch_size: int | None, steps: int | None
) -> Callable[[keras.callbacks.CallbackList], dict[str, Any]]:
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
    steps = capped(steps)

    @functools.cache
    def stream() -> Stream:
        try:
            source = make_source(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, shuffle=False)
        except (TypeError, ValueError) as error:
            kind = type(error)
            if kind not in (TypeError, ValueError, NoDataError):
                raise  # another's, perhaps not to be made from a message
            raise kind(f"`validation_data`: {error}") from error
        return Stream(source, steps, engine.steps_per_execution)

    if isinstance(x, tf.data.Dataset) or keras_private.are_arrays((x, y, sample_weight)):
        stream()
    return lambda callbacks: evaluate_pass(engine, stream(), callbacks, target)
