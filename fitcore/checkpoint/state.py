"""A run's state, taken and put back: what a checkpoint holds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore.checkpoint import callbacks, plain, randomness
from fitcore.checkpoint.store import CheckpointError, Saved
from fitcore.run import Run

# Where in the outer loop a run is.
IN_EPOCH = "in an epoch"
STEPS_DONE = "before validation"  # an epoch's steps have run, its end has not
BETWEEN = "between epochs"
FINISHED = "finished"
WITHIN = (IN_EPOCH, STEPS_DONE)

_ALIGNED = 64  # bytes


@dataclass(frozen=True)
class Snapshot:
    """A run's state at one moment, detached from what goes on training.

    Attributes:
      arrays: by name; those of the variables are good until the next snapshot is taken.
      host: the rest of it, what JSON can hold.
      facts: for the manifest, but for what `manifest` adds.
      rows: what was recorded since the last checkpoint.
    """

    arrays: Mapping[str, np.ndarray]
    host: Any
    facts: Mapping[str, Any]
    rows: np.ndarray


class Variables:
    """All state of a run on the device, in arrays of one buffer that is filled anew each time.

    The training waits meanwhile, so variables are looked for once, and copied: if what was read were held until it has been
    written, the training's next step would have to copy it, into memory that is new each time; that takes longer.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.traces = run, run.engine.traces
        held = [
            (name, variable.value if isinstance(variable, keras.Variable) else variable) for name, variable in run.variables()
        ]
        kinds = [(tf.as_dtype(variable.dtype), tuple(variable.shape)) for _, variable in held]
        sizes = [kind.size * math.prod(shape) for kind, shape in kinds]
        places = [0, *itertools.accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]
        buffer = _aligned(places[-1])
        self._read = [(variable.handle, variable.dtype) for _, variable in held]
        self.described = [[name, list(shape), kind.name] for (name, _), (kind, shape) in zip(held, kinds)]
        self.arrays = {
            name: buffer[place : place + size].view(kind.as_numpy_dtype).reshape(shape)
            for (name, _), (kind, shape), size, place in zip(held, kinds, sizes, places)
        }

    def are_those_of(self, run: Run) -> bool:
        """Whether none can have been made since. Where steps run op by op, one may be at any step."""
        by_ops = run.engine.run_eagerly or tf.config.functions_run_eagerly()
        return run is self.run and run.engine.traces == self.traces and not by_ops

    def read(self) -> Mapping[str, np.ndarray]:
        """Their values now, by name: good until this is called again."""
        # Half the time of convert_to_tensor; and all read, and only then copied: three quarters of the time of one by one.
        values = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle, dtype in self._read]
        for array, value in zip(self.arrays.values(), values):
            array[...] = np.asarray(value)
        return self.arrays


def take(run: Run, where: str, rows_saved: int, variables: Variables) -> Snapshot:
    """The state of a run now.

    Args:
      run: between two compiled calls.
      where: it is in the outer loop.
      rows_saved: rows of its curve that are saved already.
      variables: this run's; what was taken with them before is good no longer.
    """
    values = variables.read()
    held = {
        "where": where,
        "run": run.host_state(),
        "callbacks": [callbacks.state(each) for each in run.callbacks.callbacks],
        "random": randomness.state(),
    }
    host, arrays = plain.split(held, "host")
    facts = {
        "step": run.step,
        "epoch": run.epoch,
        "where": where,
        "columns": run.curve.columns,
        "first_step": run.curve.first_step,
        "by_xla": run.engine.by_xla,
        "variables": variables.described,
    }
    return Snapshot({**values, **arrays}, host, facts, run.curve.table(rows_saved))


def put_back(run: Run, saved: Saved) -> None:
    """Give a run the state that was saved. Its programs must be traced, so that every variable is there.

    Raises:
      CheckpointError: it is another model's.
    """
    arrays = saved.arrays()
    held = plain.join(saved.host, arrays)
    present = dict(run.variables())
    check_variables(saved, present)
    for (name, *_), variable in zip(saved.manifest["variables"], present.values()):
        variable.assign(arrays[name])
    run.curve.load([(name, width) for name, width in saved.manifest["columns"]], saved.curves)
    iterator = saved.path / "data" if (saved.path / "data.index").exists() else None
    run.load_host_state(held["run"], held["where"] == IN_EPOCH, iterator)
    for callback, state in zip(run.callbacks.callbacks, held["callbacks"]):
        callbacks.load_state(callback, state)
    randomness.load_state(held["random"])  # last: what was done so far may have drawn


def check_variables(saved: Saved, present: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose variables aren't those of this model, its optimizer and its metrics.

    Names are compared by their last part: those of layers are numbered through a process.

    Raises:
      CheckpointError: it is another model's; says which variable.
    """
    manifest = saved.path / "manifest.json"
    theirs = [(name, tuple(shape), dtype) for name, shape, dtype in saved.manifest["variables"]]
    ours = [(name, tuple(variable.shape), tf.as_dtype(variable.dtype).name) for name, variable in present.items()]
    for (name, shape, dtype), (own_name, own_shape, own_dtype) in zip(theirs, ours):
        if (_last(name), shape, dtype) != (_last(own_name), own_shape, own_dtype):
            raise CheckpointError(
                f"{manifest} is of another model or optimizer: it has {name!r} of shape {shape}, {dtype}, where this one has "
                f"{own_name!r} of shape {own_shape}, {own_dtype}."
            )
    if len(theirs) != len(ours):
        raise CheckpointError(
            f"{manifest} is of another model or optimizer: it has {len(theirs)} variables, this one has {len(ours)}."
        )


def _last(name: str) -> tuple[str, str]:
    """(group and index, last part) of a variable's name, that of an optimizer's with the layer's in it; without numbers."""
    group, index, path = name.split("/", 2)
    return f"{group}/{index}", re.sub(r"_\d+(?=_|$)", "", path.rpartition("/")[2])


def _aligned(size: int) -> np.ndarray:
    """So many bytes, from an address on that TensorFlow needs for a tensor to be made of them without a copy."""
    buffer = np.empty(size + _ALIGNED, np.uint8)
    start = -buffer.ctypes.data % _ALIGNED
    return buffer[start : start + size]
