"""A learning rate that follows the epoch, in Python: `keras.callbacks.LearningRateScheduler` as a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class EachEpoch:
    """The learning rate as a function of the epoch, `(epoch, learning rate so far) -> learning rate`, in Python.

    What `keras.callbacks.LearningRateScheduler` does, at the same places and with the same bits: it sets the optimizer's
    learning rate when an epoch begins, which stays so after the fit, and puts "learning_rate" into the epoch's logs.

    Args:
      function: epoch is an int, 0 for the first, learning rates are floats.
    """

    function: Callable[[int, float], float]


class EpochRates(keras.callbacks.Callback):
    """Sets the learning rate by an `EachEpoch`, where `keras.callbacks.LearningRateScheduler` would."""

    def __init__(self, function: Callable[[int, float], float], optimizer: Any) -> None:
        super().__init__()
        self._function, self._optimizer = function, optimizer

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        rate = self._function(epoch, float(keras.ops.convert_to_numpy(self._optimizer.learning_rate)))
        try:
            self._optimizer.learning_rate = float(rate)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`schedule`: the function of EachEpoch must give a float. Received: {rate!r}") from error

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))

    def state(self) -> dict[str, Any]:
        """Nothing: the rate is among the optimizer's variables."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up such a state."""
