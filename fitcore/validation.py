"""What a fit validates with, after its epochs and when a hook asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.arguments import capped
from fitcore.data import Stream, make_source
from fitcore.data.sources import GENERATOR_NOT_EXACT, py_dataset_not_exact
from fitcore.engine import Engine
from fitcore.errors import NO_TARGETS, NoDataError
from fitcore.evaluation import evaluate_pass


class Validation:
    """Evaluates on the validation data, which it converts once; called with the callbacks, it returns the logs.

    Arrays and `tf.data.Dataset`s are read and checked at once; other inputs, from which reading alone takes something
    away, after the first epoch, as in Keras.

    Args:
      engine, target: what to evaluate, and what callbacks act on.
      data: fit's `validation_data`.
      batch_size, steps: fit's `validation_batch_size` and `validation_steps`.
    """

    def __init__(self, engine: Engine, target: Any, data: Any, batch_size: int | None, steps: int | None) -> None:
        self._engine, self._target = engine, target
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._data = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": batch_size}
        self._by_its_own_evaluate = engine.is_compiled and keras_private.overrides(engine.model, "evaluate")
        self._steps = steps if self._by_its_own_evaluate else capped(steps)
        self._stream: Stream | None = None
        at_once = isinstance(x, tf.data.Dataset) or keras_private.are_arrays((x, y, sample_weight))
        if at_once and not self._by_its_own_evaluate:
            self._stream = self._read()

    def __call__(self, callbacks: keras.callbacks.CallbackList) -> dict[str, Any]:
        if self._by_its_own_evaluate:
            return self._evaluate_by_its_own(callbacks)
        self._stream = self._stream or self._read()
        try:
            return evaluate_pass(self._engine, self._stream, callbacks, self._target)
        except ValueError as error:
            if str(error) != NO_TARGETS:
                raise
            raise ValueError(
                "`validation_data` must hold targets, as in (x, y): the model's loss needs them. Received: no targets"
            ) from error

    def _evaluate_by_its_own(self, callbacks: keras.callbacks.CallbackList) -> Any:
        engine = self._engine
        if engine.validation is None:
            engine.validation = keras_private.cache_validation(engine.model, **self._data, steps_per_epoch=self._steps)
        return engine.model.evaluate(
            **self._data, steps=self._steps, callbacks=callbacks, return_dict=True, _use_cached_eval_dataset=True
        )

    def _read(self) -> Stream:
        try:
            source = make_source(
                **self._data, steps_per_epoch=self._steps, shuffle=False, strategy=self._engine.strategy, trains=False
            )
        except (TypeError, ValueError) as error:
            kind = type(error)
            if kind not in (TypeError, ValueError, NoDataError):
                raise  # another's, perhaps not to be made from a message
            raise kind(f"`validation_data`: {error}") from error
        return Stream(source, self._steps, self._engine.steps_per_execution)

    def not_exact(self) -> str | None:
        """Why it can't go on exactly in another process, as far as can be known; None if it can."""
        if self._stream is not None:
            return self._stream.source.not_exact()
        x = self._data["x"]
        if self._by_its_own_evaluate:
            return None if keras_private.are_arrays(x) else "the model's own `evaluate` begins them anew in another process"
        if keras_private.is_torch_loader(x):
            return None
        return py_dataset_not_exact(x) if isinstance(x, keras.utils.PyDataset) else GENERATOR_NOT_EXACT

    def state(self) -> dict[str, Any] | None:
        """How far the data have been read, as `Stream.state`; None before that is known."""
        return None if self._stream is None else self._stream.state()

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Go to where another process was, between two evaluations."""
        if state is not None:
            self._stream = self._stream or self._read()
            self._stream.load_state(state, within=False)
            self._engine.note_evaluation(self._stream)
