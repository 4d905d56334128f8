"""State of a training that is in none of Keras's lists: found where it is held, or behind the handles of the traced program.

held       variables and tables that can be reached from model, loss, metrics, optimizer, callbacks, hooks: see `reachable.py`
captured   variables that can't, but that the training program was handed when it was traced
refused    what the program changes, and what can neither be saved nor put back: queues, iterators, tables that can't be reached
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.reachable import reach
from fitcore.replicas import components
from fitcore.tracing import is_scratch

HELD, CAPTURED = "held", "captured"


@dataclass(frozen=True)
class Outside:
    """What was found.

    Attributes:
      variables: (name, variable), those of `HELD` by the way to them, then those of `CAPTURED` by number.
      tables: (the way to it, table).
      refused: what the program changes and nobody can save, in words.
      python: whether the program calls Python functions, whose state can't be known.
      whole: whether everything that can be reached was looked at.
    """

    variables: list[tuple[str, Any]]
    tables: list[tuple[str, Any]]
    refused: list[str]
    python: bool
    whole: bool


def look_outside(roots: Mapping[str, Any], graph: tf.Graph | None, listed: Iterable[Any]) -> Outside:
    """Find it.

    Args:
      roots: where to look for what is held, by name.
      graph: the training program; None as long as it isn't traced, and where steps run op by op.
      listed: variables that are known already.
    """
    handles = {id(_handle(variable)) for variable in listed}
    found, reached = [], reach(roots)
    for way, variable in reached.variables:
        for replica, each in enumerate(_copies(variable)):
            if id(_handle(each)) not in handles:
                handles.add(id(_handle(each)))
                found.append((f"{HELD}/{way}" + f" of replica {replica}" * (replica > 0), each))
    if graph is None:
        return Outside(found, reached.tables, [], False, reached.whole)

    captured: list[tuple[str, Any]] = []
    refused = []
    by_handle = {id(variable.handle): variable for variable in keras_private.captured_variables(graph)}
    handles |= {handle for handle, variable in by_handle.items() if is_scratch(variable)}
    tables = {id(table.resource_handle) for _, table in reached.tables}
    effects = keras_private.effects(graph)
    for resource in effects.resources:
        handle = id(resource.handle)
        if handle in handles or handle in tables:
            continue
        if handle in by_handle:
            variable = by_handle[handle]
            captured.append((f"{CAPTURED}/{len(captured)}/{variable.name}", variable))
        elif resource.written_by:
            what = reached.owners.get(handle, "what nothing leads to from the model, its loss, its metrics or the callbacks")
            refused.append(f"{what} ({', '.join(sorted(resource.written_by))})")
    refused += [f"what {kind} keeps" for kind in effects.hidden]
    return Outside([*found, *captured], reached.tables, refused, effects.python, reached.whole)


def table_state(table: Any) -> dict[str, Any]:
    """What is in a table, as arrays: copies, since a DenseHashTable hands out its own memory."""
    keys, values = table.export()
    return {"keys": np.array(keys), "values": np.array(values)}


def load_table(table: Any, state: Mapping[str, Any]) -> None:
    """Put that, and nothing else, into it."""
    keys, values = (
        tf.cast(part, dtype) if dtype != tf.string else tf.reshape(tf.constant(part.tolist(), dtype), part.shape)
        for part, dtype in ((state["keys"], table.key_dtype), (state["values"], table.value_dtype))
    )
    tf.raw_ops.LookupTableImportV2(table_handle=table.resource_handle, keys=keys, values=values)


def _copies(variable: Any) -> Any:
    """The variable, or, if it has a copy on each replica, these."""
    return variable.values if isinstance(variable, tf.distribute.DistributedValues) else components(variable)


def _handle(variable: Any) -> Any:
    """The tensor that stands for a variable without copies."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
