"""`train_on_batch` and `test_on_batch`: one step of an engine's compiled program on a batch given by hand."""

from __future__ import annotations

from typing import Any

import keras

from fitcore import keras_private
from fitcore.engine import Engine
from fitcore.supported import check_model


def train_on_batch(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
) -> Any:
    """Train on one batch: `model.train_on_batch`, bit for bit, arguments and result as there.

    Keras's own method prepares the batch and returns the logs, so they mean what they mean in the installed version: the
    batch's own values since Keras 3.15, running means before. Only the step is fitcore's, the one that `fitcore.fit` runs
    and traced together with it. It is no faster than Keras's: a call per step is what costs the time.

    Raises:
      ValueError, TypeError: as Keras, and as `fitcore.fit` for models that can't be trained.
    """
    check_model(model, "train_on_batch")
    engine = Engine.of_compiled(model, "train")
    program = engine.train_program(engine.default_record)  # now: below, Keras's own step is out of its place
    with keras_private.step_function(model, "train_function", lambda batch: engine.train_on_batch(batch, program)):
        return keras_private.train_on_batch(model, x, y, sample_weight, class_weight, return_dict)


def test_on_batch(model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:  # noqa: PT028
    """Evaluate one batch: `model.test_on_batch`, bit for bit. See `train_on_batch`."""
    check_model(model, "test_on_batch")
    program = Engine.of_compiled(model, "test").test_program()
    with keras_private.step_function(model, "test_function", program.run_batch):
        return keras_private.test_on_batch(model, x, y, sample_weight, return_dict)
