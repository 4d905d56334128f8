"""Callbacks that write files: their content is compared."""

from __future__ import annotations

import contextlib
import io
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.parity.setup import Calls, Setup, case, mlp, regression


def file_bytes(path: str) -> np.ndarray:
    return np.frombuffer(pathlib.Path(path).read_bytes(), np.uint8)


def saved_weights(path: str) -> dict[str, np.ndarray]:
    """All arrays of a .weights.h5 file or a .keras file's weights, by name."""
    import h5py

    found: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[f"{pathlib.Path(path).name} {name}"] = np.asarray(item)

    if path.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            content: Any = io.BytesIO(archive.read("model.weights.h5"))
    else:
        content = path
    with h5py.File(content) as file:
        file.visititems(take)
    return found


def with_files(model: keras.Model, make: Callable[[str], list[Any]], read: Callable[[str], Any], **arguments: Any) -> Calls:
    """Fit with callbacks that write into a new directory, and report what `read` finds in each file."""

    def run(by: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            given = regression() | {"epochs": 2, "verbose": 0} | arguments
            reported = dict(by.fit(model, callbacks=make(folder), **given).history)
            for path in sorted(pathlib.Path(folder).rglob("*")):
                if path.is_file():
                    content = read(str(path))
                    reported |= content if isinstance(content, dict) else {path.name: content}
            return reported

    return run


@case
def checkpoint_each_epoch() -> Setup:
    """ModelCheckpoint after each epoch: the saved models' weights and optimizer state."""
    model = mlp()
    return model, with_files(model, lambda d: [keras.callbacks.ModelCheckpoint(d + "/{epoch}.keras")], saved_weights)


@case
def checkpoint_every_few_batches() -> Setup:
    """ModelCheckpoint with save_freq=3: the saved weights of each file."""
    model = mlp()

    def make(folder: str) -> list[Any]:
        path = folder + "/{epoch}-{batch}.weights.h5"
        return [keras.callbacks.ModelCheckpoint(path, save_freq=3, save_weights_only=True)]

    return model, with_files(model, make, saved_weights)


@case
def checkpoint_of_the_best() -> Setup:
    """ModelCheckpoint with save_best_only on a validation metric."""
    model = mlp(metrics=["mae"])

    def make(folder: str) -> list[Any]:
        return [keras.callbacks.ModelCheckpoint(folder + "/best.keras", monitor="val_mae", save_best_only=True)]

    return model, with_files(model, make, saved_weights, validation_split=0.2, epochs=3)


@case
def csv_log() -> Setup:
    """CSVLogger: the file, byte for byte."""
    model = mlp(metrics=["mae"])
    return model, with_files(model, lambda d: [keras.callbacks.CSVLogger(d + "/log.csv")], file_bytes, validation_split=0.2)


class Interrupted(Exception):
    pass


class Interrupting(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise Interrupted


def interrupted_fit(frequency: Any) -> Setup:
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            backup = {"backup_dir": f"{folder}/b", "save_freq": frequency}
            given = regression() | {"epochs": 4, "verbose": 0}
            with contextlib.suppress(Interrupted):
                by.fit(model, callbacks=[keras.callbacks.BackupAndRestore(**backup), Interrupting()], **given)
            return by.fit(model, callbacks=[keras.callbacks.BackupAndRestore(**backup)], **given).history

    return model, run


@case
def backup_and_restore() -> Setup:
    """BackupAndRestore: a fit that is interrupted and goes on."""
    return interrupted_fit("epoch")


@case
def backup_and_restore_every_few_batches() -> Setup:
    """BackupAndRestore with save_freq=2."""
    return interrupted_fit(2)


def tensorboard(**options: Any) -> Setup:
    model = mlp()

    def scalars(path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "tfevents" in path:
            for event in tf.compat.v1.train.summary_iterator(path):
                for value in event.summary.value:
                    if "steps_per_second" not in value.tag and "keras" not in value.tag:
                        kind = pathlib.Path(path).parent.name
                        found[f"{kind} {value.tag} {event.step}"] = tf.make_ndarray(value.tensor)
        return found

    def make(folder: str) -> list[Any]:
        return [keras.callbacks.TensorBoard(folder, write_graph=False, **options)]

    return model, with_files(model, make, scalars, validation_split=0.2)


@case
def tensorboard_with_histograms() -> Setup:
    """TensorBoard with histogram_freq=1: every event written."""
    return tensorboard(histogram_freq=1)


@case
def tensorboard_each_batch() -> Setup:
    """TensorBoard with update_freq="batch" and write_steps_per_second: every event written but the speed."""
    return tensorboard(update_freq="batch", write_steps_per_second=True)


@case
def tensorboard_with_profile() -> Setup:
    """TensorBoard with profile_batch: the profiler runs, bits stay."""
    model = mlp()

    def make(folder: str) -> list[Any]:
        return [keras.callbacks.TensorBoard(folder, profile_batch=(2, 3))]

    return model, with_files(model, make, lambda path: {})
