"""One traced model, started afresh from any seed: what makes ten seeds as cheap as one trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


class Restarts:
    """A compiled model that can be made again and again what it would be if it were built under a seed.

    `start(seed)` seeds Python, NumPy and TensorFlow, builds a second model under that seed, and puts all of that one's state
    (weights, random generators, optimizer) into the first, whose compiled programs stay. Training then gives the bits that the
    second model would have given; `tests/test_experiment_framework.py` shows it.

    Whenever TensorFlow is given a seed it makes every compiled program ready anew at its next call, which takes 0.1 to 0.3 s.
    `again()` puts the last start's state back without that: where a seed has several runs, they follow one another.

    Args:
      build: () -> a compiled model, built (its input shape known).
    """

    def __init__(self, build: Callable[[], keras.Model]) -> None:
        self._build = build
        self.model = build()
        self._optimizer_start = self._state_of_optimizer(self.model)
        self._start: list[Any] = []
        self._random: tuple[Any, Any] = (None, None)

    def start(self, seed: int) -> keras.Model:
        """The model, as if just built under `seed`; the global random state is as it would be then, too."""
        keras.utils.set_random_seed(seed)
        self._start = [variable.numpy() for variable in self._build().variables]
        self._random = random.getstate(), np.random.get_state()
        return self.again()

    def again(self) -> keras.Model:
        """The model as the last `start` gave it; Python's and NumPy's random states are as they were then, too.

        TensorFlow's seed must still be that start's.
        """
        random.setstate(self._random[0])
        np.random.set_state(self._random[1])
        for mine, its in zip(self.model.variables, self._start, strict=True):
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
