"""A run's state, taken and put back: what a checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore.checkpoint import callbacks, plain, randomness
from fitcore.checkpoint.store import CheckpointError, Saved
from fitcore.replicas import components
from fitcore.run import Run

# Where in the outer loop a run is.
IN_EPOCH = "in an epoch"
STEPS_DONE = "before validation"  # an epoch's steps have run, its end has not
BETWEEN = "between epochs"
FINISHED = "finished"
WITHIN = (IN_EPOCH, STEPS_DONE)

_WORKERS = "workers"  # before the name of what each has for itself


@dataclass(frozen=True)
class Snapshot:
    """A run's state at one moment, detached from what goes on training.

    Attributes:
      variables: their values by name; TensorFlow's tensors don't change when variables do.
      arrays: those of the host's state, by name.
      host: the rest of it, what JSON can hold.
      facts: for the manifest, but for what `manifest` adds.
      rows: what was recorded since the last checkpoint.
    """

    variables: Mapping[str, tf.Tensor]
    arrays: Mapping[str, np.ndarray]
    host: Any
    facts: Mapping[str, Any]
    rows: np.ndarray

    def manifest(self) -> dict[str, Any]:
        """All facts for the manifest. The training waits while a snapshot is taken, not while this is put together."""
        described = [[name, list(value.shape), value.dtype.name] for name, value in self.variables.items()]
        return {**self.facts, "variables": described}


def take(run: Run, where: str, rows_saved: int) -> Snapshot:
    """The state of a run now.

    Args:
      run: between two compiled calls.
      where: it is in the outer loop.
      rows_saved: rows of its curve that are saved already.
    """
    variables = {name: _tensor(variable) for name, variable in run.variables()}
    held = {
        "where": where,
        "run": run.host_state(),
        "callbacks": [callbacks.state(each) for each in run.callbacks.callbacks],
        "random": randomness.state(),
    }
    host, arrays = plain.split(held, "host")
    arrays |= _of_workers(run)
    facts = {
        "step": run.step,
        "epoch": run.epoch,
        "where": where,
        "columns": run.curve.columns,
        "first_step": run.curve.first_step,
        "by_xla": run.engine.by_xla,
    }
    return Snapshot(variables, arrays, host, facts, run.curve.table(rows_saved))


def put_back(run: Run, saved: Saved) -> None:
    """Give a run the state that was saved. Its programs must be traced, so that every variable is there.

    Raises:
      CheckpointError: it is another model's.
    """
    arrays = saved.arrays()
    held = plain.join(saved.host, arrays)
    present = dict(run.variables())
    check_variables(saved, present)
    agreement = run.engine.agreement
    for (name, *_), variable in zip(saved.manifest["variables"], present.values()):
        of_workers = None if agreement is None else arrays.get(f"{_WORKERS}/{name}")
        variable.assign(arrays[name] if agreement is None or of_workers is None else of_workers[agreement.worker])
    run.curve.load([(name, width) for name, width in saved.manifest["columns"]], saved.curves)
    iterator = saved.path / "data" if (saved.path / "data.index").exists() else None
    run.load_host_state(held["run"], held["where"] == IN_EPOCH, iterator)
    for callback, state in zip(run.callbacks.callbacks, held["callbacks"]):
        callbacks.load_state(callback, state)
    randomness.load_state(held["random"])  # last: what was done so far may have drawn


def _of_workers(run: Run) -> dict[str, np.ndarray]:
    """In a cluster, the variables that each worker has for itself, [workers, ...] by name.

    Those of metrics, which are summed when they are read, and all that isn't trained: batch normalization's moving averages are
    each worker's own. What is trained is the same on all, and so is the optimizer's state.
    """
    if run.engine.agreement is None:
        return {}
    of_metrics = [variable for metric in run.engine.parts.metrics() for variable in metric.variables]
    apart = [*of_metrics, *run.engine.model.non_trainable_variables]
    components_apart = {id(each) for variable in apart for each in components(variable)}
    own = {name: _tensor(variable) for name, variable in run.variables() if id(variable) in components_apart}
    return {f"{_WORKERS}/{name}": each for name, each in zip(own, run.engine.agreement.gathered(list(own.values())))}


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


def _tensor(variable: Any) -> tf.Tensor:
    """A variable's value, on the host."""
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    value = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)  # half the time of convert_to_tensor
    if value.device.endswith("CPU:0"):
        return value  # what was read doesn't change: the next update copies the variable's buffer if it is held here
    with tf.device("CPU:0"):
        return tf.identity(value)
