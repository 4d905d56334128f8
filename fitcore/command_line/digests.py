"""A History that also keeps a digest of every variable at each epoch's end, so that two runs can be compared bit for bit.

While it is filled, it writes the curves too, so that a run that is killed leaves them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.command_line.curves import CurveWriter
from fitcore.engine import Engine
from fitcore.hooks import Answer, Hook, View, When


class CurvesHook(Hook):
    """Hands what is recorded at each step to a writer of curves."""

    when = When(returns=True, epochs=False)

    def __init__(self, writer: CurveWriter) -> None:
        self.writer = writer

    def after_steps(self, view: View) -> Answer:
        self.writer.steps(view.first_step, view.records)
        return None

    def end(self, view: View) -> None:
        self.writer.steps(view.first_step, view.records)
        self.writer.flush()
        self.writer.wait()

    def state(self) -> dict[str, Any]:
        return {**super().state(), "curves": self.writer.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.writer.load_state(state["curves"])


class DigestingHistory(keras.callbacks.History):
    """Keras's History, and `digests`: by a variable's path, one for each epoch; those of the model, then of its optimizer.

    A digest is the CRC-32 of the variable's bytes, eight hexadecimal digits. It takes part in checkpoints.

    Args:
      writer: writes the curves while the fit runs: those of each epoch, and by a hook what `fitcore.fit` records per step.

    Attributes:
      hooks: what `fitcore.fit` takes besides its own `hooks`.
      fingerprint: `fitcore.checkpoint.fingerprint.of_fit` of a fit of fitcore's: what was trained, on which data.
    """

    def __init__(self, writer: CurveWriter | None = None) -> None:
        super().__init__()
        self.digests: dict[str, list[str]] = {}
        self.writer = writer
        self.hooks: list[Hook] = [] if writer is None else [CurvesHook(writer)]
        self.fingerprint: Mapping[str, Any] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        if self.writer is not None:
            self.writer.begin(self.fingerprint)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        for name, variable in _variables(self.model):
            self.digests.setdefault(name, []).append(digest(variable))
        if self.writer is not None:
            self.writer.epoch(epoch, _steps_done(self.model), logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        super().on_train_end(logs)
        if self.writer is not None:
            self.writer.flush()
            self.writer.wait()

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": self.history, "digests": self.digests}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.history, self.digests = state["epoch"], state["history"], state["digests"]


def digest(variable: keras.Variable | tf.Variable) -> str:
    """CRC-32 of a variable's bytes. It is there to find changes, not to withstand forgery, and the fastest at that.

    Any change within 32 bits that are neighbours changes it, so that of a single weight always does.
    """
    value = np.asarray(tf.convert_to_tensor(variable.value if isinstance(variable, keras.Variable) else variable))
    return f"{zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data):08x}"


def _steps_done(target: Any) -> int | None:
    """Steps that the optimizer of what is trained has made; None where it has no optimizer of Keras's."""
    if isinstance(target, Engine):
        return target.steps_done()
    optimizer = getattr(target, "optimizer", None)
    return keras_private.steps_counted(optimizer) if isinstance(optimizer, keras.optimizers.Optimizer) else None


def _variables(target: Any) -> Iterator[tuple[str, Any]]:
    """(path, variable) of what is trained; where variables share a path, those after the first have their number behind it."""
    engine = isinstance(target, Engine)
    model, optimizer = (target.model, target.parts.optimizer) if engine else (target, getattr(target, "optimizer", None))
    count: dict[str, int] = {}
    for variable in [*model.variables, *getattr(optimizer, "variables", ())]:
        path = getattr(variable, "path", variable.name)
        count[path] = count.get(path, 0) + 1
        yield path if count[path] == 1 else f"{path} ({count[path]})", variable
