"""TensorBoard events: a point per step and a point per epoch."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.metadata import create_summary_metadata

from fitcore.hooks.protocol import RETURNS, Answer, Hook, View

_files = itertools.count()  # numbers this process's event files, so that no two share a name


class TensorBoard(Hook):
    """Writes curves to `directory`, under the tags and in the folders of `keras.callbacks.TensorBoard`, so they overlay.

        train/       batch_loss, batch_...   per step: Keras's running means since the epoch's start
                     step/...                per step: the batch's own loss, the learning rate, the gradient norm
                     epoch_loss, epoch_...   per epoch; epoch_learning_rate: the rate of the epoch's last step
        validation/  epoch_loss, epoch_...   per epoch; evaluation_..._vs_iterations against steps

    The horizontal axis of what is per step counts optimizer steps, the first one as 1, however many run per compiled call;
    in a further fit of the same optimizer it goes on from there. That of what is per epoch is the epoch's index, from 0.
    What is written can be seen at once. What can't be written, to a full disk say, is lost with one warning; training goes on,
    and so does writing as soon as there is room.

    Args:
      directory: a local folder; created if missing.
      record: what to write per step besides the running means of the metrics; () for a model with a train_step of its own.
      running: names of metrics whose running means are written per step.

    Raises:
      OSError: if `directory` can't be created or written in.
    """

    when = RETURNS

    def __init__(
        self,
        directory: str | os.PathLike[str],
        record: Iterable[str] = ("step/loss", "step/learning_rate", "step/gradient_norm"),
        running: Iterable[str] = ("loss",),
    ) -> None:
        self.directory = writable_folder(directory)
        self._running = tuple(running)
        self.record = (*record, *self._running)
        self._files: dict[str, EventFile] = {}
        self._learning_rate: float | None = None

    def after_steps(self, view: View) -> Answer:
        self._write_steps(view)
        return None

    def after_epoch(self, view: View) -> Answer:
        self._write_steps(view)
        logs = dict(view.logs)
        if self._learning_rate is not None:
            logs.setdefault("learning_rate", self._learning_rate)  # a Keras callback may have put its own there
        for name, value in logs.items():
            metric = name.removeprefix("val_")
            file = self._file("train" if metric == name else "validation")
            file.write(f"epoch_{metric}", [view.epoch], [value])
            if metric != name:
                file.write(f"evaluation_{metric}_vs_iterations", [view.step], [value])
        self._flush()
        return None

    def end(self, view: View) -> None:
        self._write_steps(view)
        for file in self._files.values():
            file.close()
        self._files, self._learning_rate = {}, None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "learning_rate": self._learning_rate}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._learning_rate = state["learning_rate"]

    def _write_steps(self, view: View) -> None:
        for name in self.record:
            if name in view.records:
                values = view.records[name]
                tag = f"batch_{name}" if name in self._running else name
                first = view.first_step + 1
                self._file("train").write(tag, range(first, first + len(values)), values.tolist())
                if name == "step/learning_rate":
                    self._learning_rate = float(values[-1])
        self._flush()

    def _file(self, fold: str) -> EventFile:
        if fold not in self._files:
            self._files[fold] = EventFile(os.path.join(self.directory, fold))
        return self._files[fold]

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()


def writable_folder(directory: str | os.PathLike[str]) -> str:
    """The folder, created if missing.

    Raises:
      OSError: it can't be created or written in.
    """
    directory = os.fspath(directory)
    os.makedirs(directory, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "No permission to write TensorBoard events in", directory)
    return directory


class EventFile:
    """A new event file in `folder`, and the next one after each time that the disk was full or couldn't be written.

    What couldn't be written is lost, from the last `flush` on; the first time is told by a warning. No error comes out.

    Not tf.summary, because there is a point per step for each of several curves: measured on one machine, a point cost
    153 µs by `tf.summary.scalar`, 10 to 18 by a compiled loop of `tf.summary.write`, 18 by tensorboard's EventFileWriter,
    and 1 to 2 by writing TensorFlow's records directly; a small model's whole step takes 30.

    Args:
      folder: created if missing.
      first: events that each file begins with.
    """

    def __init__(self, folder: str, first: Sequence[Event] = ()) -> None:
        self._folder, self._first = folder, first
        self._records: Any = None  # TensorFlow's writer; None before the file is opened
        self._path = ""
        self._whole = 0  # bytes of whole records that the file is known to hold
        self._broken = False  # since the last flush
        self._told = False

    def write_event(self, event: Event) -> None:
        """Write an event as it is."""
        if self._broken:
            return
        try:
            if self._records is None:
                self._open()
            self._records.write(event.SerializeToString())
        except (OSError, tf.errors.OpError) as error:
            self._give_up(error)

    def flush(self) -> None:
        """Let what was written be seen."""
        if self._records is not None:
            try:
                self._records.flush()
                self._whole = os.path.getsize(self._path)
            except (OSError, tf.errors.OpError) as error:
                self._give_up(error)
        self._broken = False

    def close(self) -> None:
        self.flush()
        if self._records is not None:
            self._records.close()
            self._records = None

    def _open(self) -> None:
        os.makedirs(self._folder, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_files)}.v2"
        self._path, self._whole = os.path.join(self._folder, name), 0
        self._records = tf.io.TFRecordWriter(self._path)
        for event in (Event(wall_time=time.time(), file_version="brain.Event:2"), *self._first):
            self._records.write(event.SerializeToString())

    def _give_up(self, error: Exception) -> None:
        """Leave the file with the whole records in it, so that readers go on to the next; without one, take it away."""
        self._broken = True
        with contextlib.suppress(OSError, tf.errors.OpError):
            if self._records is not None:
                self._records.close()
        self._records = None
        with contextlib.suppress(OSError):
            if self._whole:
                os.truncate(self._path, self._whole)
            else:
                os.remove(self._path)
        if not self._told:
            self._told = True
            warnings.warn(
                f"TensorBoard events can't be written to {self._folder}: {error}. Training goes on; these points are lost, and "
                "writing is tried again.",
                stacklevel=2,
            )

    def write(self, tag: str, steps: Iterable[int], values: Iterable[Any]) -> None:
        """Write a point for each of `steps`, as `tf.summary.scalar` does: float32, with now as its time."""
        event = Event(wall_time=time.time())
        point = event.summary.value.add(tag=tag)
        point.metadata.CopyFrom(create_summary_metadata(display_name=None, description=None))
        point.tensor.dtype = tf.float32.as_datatype_enum
        point.tensor.tensor_shape.SetInParent()  # a scalar's shape: there, and empty
        point.tensor.float_val.append(0.0)
        for event.step, point.tensor.float_val[0] in zip(steps, values):
            self.write_event(event)
