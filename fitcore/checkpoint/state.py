"""A run's state, taken and put back: what a checkpoint holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore.checkpoint import callbacks, plain, randomness
from fitcore.checkpoint.store import CheckpointError, Saved
from fitcore.data.memory import is_plain, shared
from fitcore.outside import CAPTURED, HELD, load_table, table_state
from fitcore.replicas import components
from fitcore.run import Run

# Where in the outer loop a run is.
IN_EPOCH = "in an epoch"
STEPS_DONE = "before validation"  # an epoch's steps have run, its end has not
BETWEEN = "between epochs"
FINISHED = "finished"
WITHIN = (IN_EPOCH, STEPS_DONE)

LARGE = 1 << 22  # bytes of a variable from which on its value is held, not copied
_WORKERS = "workers"  # before the name of what each has for itself


@dataclass(frozen=True)
class Snapshot:
    """A run's state at one moment, detached from what goes on training.

    Attributes:
      arrays: by name; those of the variables are good until the next snapshot is taken.
      host: the rest of it, what JSON can hold.
      facts: for the manifest.
      rows: what was recorded since the last checkpoint.
    """

    arrays: Mapping[str, np.ndarray | tf.Tensor]
    host: Any
    facts: Mapping[str, Any]
    rows: np.ndarray


class Variables:
    """All state of a run on the device, read again and again.

    The training waits meanwhile, so variables are looked for once; and small ones are copied, into arrays that are filled anew
    each time. Were what was read of them held until it has been written, the training's next step would copy it, into memory
    that is new each time; that takes longer. Large ones are held, so that there is never more than one copy of them.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.traces = run, run.engine.traces
        self.described: list[list[Any]] = []  # for the manifest: name, shape, dtype
        # Name, handle, dtype; the array that its value is put into, if it is small, and what is then handed out.
        self._read: list[tuple[str, Any, tf.DType, np.ndarray | None, np.ndarray | tf.Tensor | None]] = []
        for name, variable in run.variables():
            held = variable.value if isinstance(variable, keras.Variable) else variable
            dtype, shape = tf.as_dtype(held.dtype), _shape(held)
            sizes = [size for size in shape or () if size is not None]
            known = shape is not None and len(sizes) == len(shape)  # else its value has another size each time
            small = known and dtype.size * math.prod(sizes) < LARGE
            self.described.append([name, None if shape is None else list(shape), dtype.name])
            places = _places(sizes, np.dtype(dtype.as_numpy_dtype)) if small else (None, None)
            self._read.append((name, held.handle, held.dtype, *places))

    def are_those_of(self, run: Run) -> bool:
        """Whether none can have been made since: op by op, one may be at any step; by a user's callback, at any time."""
        by_callbacks = callbacks.of_users([*run.callbacks.callbacks, *run.hooks])
        return run is self.run and run.engine.traces == self.traces and not run.engine.steps_op_by_op and not by_callbacks

    def read(self) -> dict[str, np.ndarray | tf.Tensor]:
        """Their values now, by name, on the host: good until this is called again."""
        # Half the time of convert_to_tensor; and all read, and only then copied: three quarters of the time of one by one.
        values = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for _, handle, dtype, _, _ in self._read]
        found: dict[str, np.ndarray | tf.Tensor] = {}
        for (name, _, _, array, handed_out), value in zip(self._read, values):
            if array is None:
                found[name] = _on_host(value)
            else:
                array[...] = np.asarray(value)
                found[name] = handed_out
        return found


def _shape(variable: Any) -> tuple[int | None, ...] | None:
    """A variable's shape: None for a dimension that may change; None for one whose rank may."""
    shape = tf.TensorShape(variable.shape)
    return None if shape.rank is None else tuple(shape.as_list())


def _places(shape: Sequence[int], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | tf.Tensor]:
    """An array for a variable's value, and a tensor of the same memory: making one at each save takes as long as writing it."""
    if is_plain(dtype) and 0 not in shape:
        return shared(shape, dtype)
    array = np.empty(shape, dtype)
    return array, array


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
        "traces": {kind: randomness.state_of_traces(traces) for kind, traces in run.engine.draws.items()},
        "tables": {name: table_state(table) for name, table in run.outside().tables},
    }
    host, arrays = plain.split(held, "host")
    arrays |= _of_workers(run, values)
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


def trace_again(run: Run, saved: Saved) -> None:
    """Let what is traced from now on draw from Python's and NumPy's generators what it drew when it was traced first."""
    held = plain.join(saved.host, saved.arrays())
    for kind, traces in held.get("traces", {}).items():
        randomness.load_state_of_traces(run.engine.draws[kind], traces)


def put_back(run: Run, saved: Saved) -> list[str]:
    """Give a run the state that was saved. Its programs must be traced, so that every variable is there.

    Returns:
      In words, what was saved of state outside of Keras's lists and isn't there now, or the reverse.

    Raises:
      CheckpointError: it is another model's.
    """
    arrays = saved.arrays()
    held = plain.join(saved.host, arrays)
    present = dict(run.variables())
    check_variables(saved, {name: variable for name, variable in present.items() if not _is_held(name)})
    agreement = run.engine.agreement
    pairs, otherwise = _paired(saved, present)
    for name, variable in pairs:
        of_workers = None if agreement is None else arrays.get(f"{_WORKERS}/{name}")
        variable.assign(arrays[name] if agreement is None or of_workers is None else of_workers[agreement.worker])
    otherwise += _put_tables_back(run, held.get("tables", {}))
    run.curve.load([(name, width) for name, width in saved.manifest["columns"]], saved.curves)
    iterator = saved.path / "data" if (saved.path / "data.index").exists() else None
    run.load_host_state(held["run"], held["where"] == IN_EPOCH, iterator)
    for callback, state in zip(run.callbacks.callbacks, held["callbacks"]):
        callbacks.load_state(callback, state)
    randomness.load_state(held["random"], run.stream.source.drew_again)  # last: what was done so far may have drawn
    return otherwise


def _is_held(name: str) -> bool:
    return name.startswith(f"{HELD}/")


def _described(saved: Saved) -> list[tuple[str, Any, str]]:
    """(name, shape, dtype) of the variables in a checkpoint."""
    return [(name, None if shape is None else tuple(shape), dtype) for name, shape, dtype in saved.manifest["variables"]]


def _paired(saved: Saved, present: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], list[str]]:
    """(name in the checkpoint, variable) of all that are in both; and in words, what is held in only one of them.

    What Keras lists, and what the program captured, comes in the same order. What is held goes by its name: a callback may
    have made it later, or not yet.
    """
    listed = [name for name, *_ in saved.manifest["variables"] if not _is_held(name)]
    pairs = list(zip(listed, [variable for name, variable in present.items() if not _is_held(name)]))
    theirs = {name: (shape, dtype) for name, shape, dtype in _described(saved) if _is_held(name)}
    ours = {name: variable for name, variable in present.items() if _is_held(name)}
    otherwise = [f"{name.partition('/')[2]!r} was saved, and isn't there now" for name in theirs if name not in ours]
    for name, variable in ours.items():
        way, shape = name.partition("/")[2], _shape(variable)
        if name not in theirs:
            otherwise.append(f"{way!r} was not saved, and begins anew")
        elif theirs[name] != (shape, tf.as_dtype(variable.dtype).name):
            otherwise.append(f"{way!r} was saved as {theirs[name]}, and is of shape {shape} now")
        else:
            pairs.append((name, variable))
    return pairs, otherwise


def _put_tables_back(run: Run, tables: Mapping[str, Any]) -> list[str]:
    """Fill those that were saved; in words, those that are in only one of both."""
    present = dict(run.outside().tables)
    for name, table in present.items():
        if name in tables:
            load_table(table, tables[name])
    return [f"the table {name!r} is in only one of both" for name in sorted({*tables} ^ {*present})]


def _of_workers(run: Run, values: Mapping[str, np.ndarray | tf.Tensor]) -> dict[str, np.ndarray]:
    """Of the values read, in a cluster, those of the variables that each worker has for itself, [workers, ...] by name.

    Those of metrics, which are summed when they are read, the states of stateful RNNs, and all that isn't trained: batch
    normalization's moving averages are each worker's own. What is trained is the same on all, and so is the optimizer's state.
    """
    if run.engine.agreement is None:
        return {}
    untrained = {id(each) for variable in run.engine.model.non_trainable_variables for each in components(variable)}
    own = [
        name
        for name, variable in run.variables()
        if id(variable) in untrained or name.partition("/")[0] in ("metrics", "states", HELD, CAPTURED)
    ]
    gathered = run.engine.agreement.gathered([tf.convert_to_tensor(values[name]) for name in own])
    return {f"{_WORKERS}/{name}": each for name, each in zip(own, gathered)}


def check_variables(saved: Saved, present: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose variables aren't those of this model, its optimizer and its metrics.

    Names are compared by their last part: those of layers are numbered through a process.

    Raises:
      CheckpointError: it is another model's; says which variable.
    """
    manifest = saved.path / "manifest.json"
    theirs = [each for each in _described(saved) if not _is_held(each[0])]
    ours = [(name, _shape(variable), tf.as_dtype(variable.dtype).name) for name, variable in present.items()]
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


def _on_host(value: tf.Tensor) -> tf.Tensor:
    """What was read of a variable: it doesn't change, since the next update copies the variable's buffer if it is held here."""
    if value.device.endswith("CPU:0"):
        return value
    with tf.device("CPU:0"):
        return tf.identity(value)
