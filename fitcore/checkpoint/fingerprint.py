"""What must be alike for a run to go on where another process left it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.data import ArraySource, Source
from fitcore.engine import Engine

WHOLE = 1 << 24  # bytes up to which an array is hashed whole
ROWS = 1 << 10  # of a larger one


def versions() -> dict[str, str]:
    """Versions that the bits depend on."""
    return {"keras": keras.__version__, "tensorflow": tf.__version__}


def machine() -> dict[str, Any]:
    """What else last bits may depend on."""
    devices = sorted({device.device_type for device in tf.config.list_physical_devices()})
    return {"devices": devices, "architecture": platform.machine(), "cpu_cores": os.cpu_count()}


# Of fit's arguments: those that are what they are, and those of which the classes tell enough. What is left out is in the
# data, or changes nothing in the training.
_AS_THEY_ARE = (
    "batch_size", "epochs", "initial_epoch", "validation_split", "validation_steps", "validation_batch_size", "validation_freq",
    "steps_per_epoch", "shuffle", "class_weight", "numerics", "plan", "noise", "schedule",
)  # fmt: skip
_BY_CLASS = ("hooks", "callbacks")


def of_fit(engine: Engine, source: Source, given: Mapping[str, Any]) -> dict[str, Any]:
    """A fit's arguments, data, model and seed, in words that JSON can hold and that are the same in another process.

    Args:
      engine: what is trained.
      source: its data.
      given: fit's arguments, by name.
    """
    return {
        **{name: words(given[name]) for name in _AS_THEY_ARE},
        **{name: [type(each).__name__ for each in keras.tree.flatten(given[name] or [])] for name in _BY_CLASS},
        "replicas": engine.num_replicas,
        "optimizer": of_optimizer(engine.parts.optimizer),
        "model": of_model(engine.model),
        "loss": _described(engine.model.loss) if engine.is_compiled else words(engine.parts.loss),
        "data": of_data(source),
        "global seed": words(keras_private.global_seed()),
    }


def of_data(source: Source) -> Any:
    """Arrays by shape, type and SHA-256 of their bytes (large ones: of rows evenly spaced); anything else by its specs."""
    if not isinstance(source, ArraySource):
        return {"specs": repr(source.specs()[1]), "batches": source.num_batches}
    return [_of_tensor(leaf) for leaf in tf.nest.flatten(source.tensors) if leaf is not None]


def of_model(model: Any) -> dict[str, Any]:
    """The innermost layers by number, each with its class and what of its config is a number, a word or a list of numbers.

    Without names: those are numbered through a process.
    """
    innermost = [layer for layer in keras_private.all_layers(model) if len(keras_private.all_layers(layer)) == 1]
    layers = [layer for layer in innermost if not isinstance(layer, keras.layers.InputLayer)]  # there or not, before building
    return {str(i): _described(layer) for i, layer in enumerate(layers)}


def of_optimizer(optimizer: Any) -> dict[str, Any]:
    """Its class and, if it is Keras's, its config. Without names."""
    config = _unnamed(optimizer.get_config()) if isinstance(optimizer, keras.optimizers.Optimizer) else {}
    return {"class": type(optimizer).__name__, **{name: words(value) for name, value in config.items()}}


def _described(value: Any) -> Any:
    if not isinstance(value, (keras.layers.Layer, keras.losses.Loss)):
        return words(value)
    try:
        config = value.get_config()
    except Exception:  # of a class of the user's
        config = {}
    simple = {name: held for name, held in config.items() if name != "name" and _is_simple(held)}
    return {"class": type(value).__name__, **words(simple)}


def _is_simple(value: Any) -> bool:
    numbers = isinstance(value, (list, tuple)) and all(isinstance(each, (bool, int, float)) for each in value)
    return value is None or isinstance(value, (bool, int, float, str)) or numbers


def words(value: Any) -> Any:
    """A value in words: functions by name, objects by class and, where they have them, fields; never an address."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _of_array(np.asarray(value)) if np.size(value) > 16 else np.asarray(value).tolist()
    if isinstance(value, Mapping):
        return {str(key): words(held) for key, held in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [words(held) for held in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: words(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    return getattr(value, "__qualname__", type(value).__qualname__)


def _unnamed(config: Any) -> Any:
    """A config without names: Keras numbers them through a process."""
    if not isinstance(config, Mapping):
        return config
    return {key: _unnamed(value) for key, value in config.items() if key != "name"}


def differences(saved: Any, now: Any, name: str = "") -> list[str]:
    """In words, where two such dicts differ."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*saved, *now}):
            found += differences(saved.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if saved == now else [f"`{name}` was {saved!r}, is {now!r}"]


def _of_tensor(tensor: tf.Tensor) -> dict[str, Any]:
    rows, size = int(tensor.shape[0]), tensor.dtype.size * tensor.shape.num_elements()
    part = tensor
    if size > WHOLE and rows > ROWS:
        part = tf.gather(tensor, np.linspace(0, rows - 1, ROWS).astype(np.int64))
    return {**_of_array(part.numpy()), "shape": tensor.shape.as_list()}


def _of_array(array: np.ndarray) -> dict[str, Any]:
    data = b"".join(array.ravel().tolist()) if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": hashlib.sha256(data).hexdigest()}
