"""Keras's own compiled steps of a model, whose life fitcore's programs share.

Keras makes its compiled step at the start of a fit or an evaluation if there is none. What it reads from the model then is
`train_step` or `test_step`, `jit_compile` and `run_eagerly`. All else it reads whenever it traces: at the first batch and for
batches of new shapes. What changes in the model between is not seen until somebody makes an end of the step: by `compile`,
`quantize`, `make_train_function(force=True)` or `model.train_function = None`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from fitcore import keras_private
from fitcore.errors import ModelError

KINDS = ("train", "test")


@dataclass(frozen=True)
class KerasStep:
    """One of Keras's compiled steps, and what it was made with.

    Attributes:
      function: Keras's own object, which is another whenever the step is made anew; None: there is none yet.
      own_step: the `train_step` or `test_step` of the model's class, None if it is Keras's.
      jit_compile, run_eagerly, steps_per_execution: as in `compile`.
    """

    function: Any
    own_step: Callable[[Any], Any] | None
    jit_compile: bool
    run_eagerly: bool
    steps_per_execution: int


class KerasSteps:
    """Those of one model.

    Args:
      model: compiled.

    Attributes:
      train, test: as they were when `changed` was asked last.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._parts: tuple[Any, Any] = (None, None)
        self.train = self._made("train", None)
        self.test = self._made("test", None)

    def of(self, kind: str) -> KerasStep:
        return self.train if kind == "train" else self.test

    def changed(self, kind: str, make: bool) -> bool:
        """Whether Keras's step of this kind is another than when this was asked last.

        Args:
          kind: "train" or "test".
          make: whether Keras is to make one now if there is none.
        """
        function = keras_private.compiled_step(self._model, kind, make)
        if function is not None and function is self.of(kind).function:
            return False
        made = self._made(kind, function)
        if kind == "train":
            self.train = made
        else:
            self.test = made
        return True

    def has_other_executions(self, kind: str) -> bool:
        """Whether `model.steps_per_execution` was set since Keras's step of this kind was made, and the step is still there."""
        step = self.of(kind)
        same = step.function is not None and keras_private.compiled_step(self._model, kind, make=False) is step.function
        return same and bool(self._model.steps_per_execution != step.steps_per_execution)

    def has_other_parts(self) -> bool:
        """Whether the model has another optimizer, or was compiled anew, since this was asked last."""
        now = self._model.optimizer, keras_private.loss_tracker(self._model)
        before, self._parts = self._parts, now
        return any(one is not other for one, other in zip(before, now))

    def check(self, kind: str, steps_per_execution: int) -> None:
        """As `Engine.check_step`."""
        name = f"{kind}_function"
        if keras_private.compiled_step(self._model, kind, make=False) is None:
            raise TypeError(
                "`callbacks`: one of them has made an end of the model's compiled step, by `compile` for example. Keras "
                f"makes it at the start of a fit or an evaluation alone. Call `model.make_{name}()` in the callback. Received: "
                f"model.{name}=None"
            )
        if keras_private.has_own_function(self._model, name):
            raise ModelError(
                f"`callbacks`: one of them has replaced `model.{name}`, and with it the loop that fitcore runs. Received: "
                f"model.{name}={getattr(self._model, name)!r}"
            )
        if self._model.steps_per_execution != steps_per_execution:
            raise ModelError(
                "`callbacks`: one of them has changed `steps_per_execution` in the middle of a call. Keras would go on "
                f"counting by the old number. Received: {self._model.steps_per_execution}, before {steps_per_execution}"
            )

    def _made(self, kind: str, function: Any) -> KerasStep:
        model, method = self._model, f"{kind}_step"
        own_step = getattr(model, method) if keras_private.overrides(model, method) else None
        return KerasStep(function, own_step, bool(model.jit_compile), bool(model.run_eagerly), model.steps_per_execution)
