"""The file that TensorBoard's events are written to: fast, and never the end of a training."""

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

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.util.tensor_util import make_tensor_proto

from fitcore.cluster import role

_files = itertools.count()  # numbers this process's event files, so that no two share a name


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


def event_of(summary: Any) -> Event:
    """An event with a summary that one of TensorBoard's plugins made, be it TensorFlow's class or TensorBoard's own."""
    event = Event(wall_time=time.time())
    event.summary.ParseFromString(summary.SerializeToString())
    return event


class EventFile:
    """A new event file in `folder`, and the next one after each time that the disk was full or couldn't be written.

    What couldn't be written is lost, from the last `flush` on; the first time is told by a warning. No error comes out. In a
    cluster only the chief writes.

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
        self._writes = role.is_chief()
        self._broken = False  # since the last flush
        self._told = False

    def write_event(self, event: Event) -> None:
        """Write an event as it is."""
        self._write([event.SerializeToString()])

    def _write(self, records: Iterable[bytes]) -> None:
        if self._broken or not self._writes:
            return
        try:
            if self._records is None:
                self._open()
            write = self._records.write
            for record in records:
                write(record)
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
        number = f"{next(_files):06d}"  # TensorBoard reads a folder's files in the order of their names
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{number}.v2"
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
        floats, serialized = point.tensor.float_val, event.SerializeToString  # looked up once: this is done for every step
        self._write(serialized() for event.step, floats[0] in zip(steps, values))

    def write_tensor(self, tag: str, step: int, value: np.ndarray, metadata: SummaryMetadata) -> None:
        """Write one value of another kind than scalars; `metadata` is that of the dashboard which shows it."""
        event = Event(wall_time=time.time(), step=step)
        event.summary.value.add(tag=tag, tensor=make_tensor_proto(value), metadata=metadata)
        self.write_event(event)
