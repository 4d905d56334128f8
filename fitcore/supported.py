"""Which models fitcore can run, and why not the others."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fitcore import keras_private
from fitcore.errors import ModelError

# Those under which Keras 3 itself trains, at least some models: PARITY.md says which.
_STRATEGIES = (
    tf.distribute.OneDeviceStrategy,
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.experimental.CentralStorageStrategy,
)


def check_model(model: Any, method: str, *data: Any) -> None:
    """Refuse what can't be trained, before anything is done. Arguments as for `why_not`.

    Raises:
      TypeError: not a Keras model.
      ValueError: not compiled (as Keras), or a `ModelError` for what `why_not` says.
    """
    if not keras_private.is_trainer(model):
        raise TypeError(f"`model` must be a Keras model. Received: model={model!r} of type {type(model).__name__}")
    keras_private.assert_compiled(model, method)
    reason = why_not(model, method, *data)
    if reason is not None:
        raise ModelError(f"`model` can't be given to fitcore's {method}: {reason}")


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
    engine: Any = vars(model).get("_fitcore_engine")
    for kind in {"fit": ("train", "test"), "evaluate": ("test",)}.get(method, ()) if engine is not None else ():
        reason: str | None = engine.why_not_executed(kind)
        if reason is not None:
            return reason
    strategy = keras_private.strategy_of(model)
    if strategy is not None and not isinstance(strategy, _STRATEGIES):
        kinds = ", ".join(kind.__name__ for kind in _STRATEGIES)
        return f"it belongs to a tf.distribute strategy, {type(strategy).__name__}; fitcore trains under {kinds} or none."
    if strategy is None and any(isinstance(given, tf.distribute.DistributedDataset) for given in data):
        return "its data are a tf.distribute.DistributedDataset, and it belongs to no strategy."
    if training and model.compiled and model.optimizer is None and not keras_private.overrides(model, "train_step"):
        return "it was compiled without an optimizer. Give `optimizer=` to `compile()`."
    return None
