"""One traced model, started afresh from any seed: what makes ten seeds as cheap as one trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


class Restarts:
    """A compiled model that can be made again and again what it would be if it were built under a seed.

    `start(seed)` seeds Python, NumPy and TensorFlow, builds a second model under that seed, and puts all of that one's state
    (weights, random generators, optimizer) into the first, whose compiled programs stay. Training then gives the bits that the
    second model would have given; `tests/test_experiment_framework.py` shows it.

    Args:
      build: () -> a compiled model, built (its input shape known).
    """

    def __init__(self, build: Callable[[], keras.Model]) -> None:
        self._build = build
        self.model = build()
        self._optimizer_start = self._state_of_optimizer(self.model)

    def start(self, seed: int) -> keras.Model:
        """The model, as if just built under `seed`; the global random state is as it would be then, too."""
        keras.utils.set_random_seed(seed)
        fresh = self._build()
        for mine, its in zip(self.model.variables, fresh.variables, strict=True):
            mine.assign(its)
        for variable, value in zip(self.model.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(value)
        self.model.stop_training = False
        return self.model

    @staticmethod
    def _state_of_optimizer(model: keras.Model) -> list[Any]:
        """An optimizer's start is the same under every seed."""
        model.optimizer.build(model.trainable_variables)
        return [variable.numpy() for variable in model.optimizer.variables]
