"""The inner loop: many steps in one compiled call.

    call(feed, first batch, step index, how many, seconds, carried):
        while steps are left, data are left, no rule has stopped and the seconds have not passed:
            batch = the source's next one
            carried = step(batch, carried)  # fitcore/step.py
            curve[i] = its recorded scalars
        return how many ran, whether the data ended, last logs, curve, carried

How many steps a call makes is an argument, not part of the graph: one trace serves them all.

Keras calls its step once for each batch, and TensorFlow's optimizer sees nothing but the step. If it saw the loop too it would
fuse other ops, which round differently. So the step is optimized alone, and then the loop is run as it was traced
(`keras_private.optimized`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fitcore import keras_private, replicas
from fitcore.data.sources import Source, on_host

# What the loop hands from one step to the next, by name; most programs carry nothing.
#   state, stopped_by   of the hooks' rules: float64 vector; int64 index of the rule that stopped, or -1
#   rows, place         where the batch size may change: int64 rows in the next batch, and the row of the pass it begins at
Carried = Mapping[str, tf.Tensor]


def trace(
    step: Any,
    results: Callable[[], dict[str, Any]],
    source: Source,
    carried_specs: Mapping[str, tf.TensorSpec],
    *,
    has_clock: bool,
    records: bool,
    alone: bool,
) -> tuple[Any, bool]:
    """The compiled loop over a source's batches.

    Args:
      step: a `tf.function`: (batch, step index, carried) -> (logs, a row of records, carried).
      results: () -> logs, traced after the loop, where the step has none.
      source: where batches come from.
      carried_specs: of what is carried.
      has_clock: whether the loop may look at the clock.
      records: whether rows of records are kept.
      alone: whether the step is to be optimized alone.

    Returns:
      (the concrete function, whether its step is optimized already: then it is to be called under
      `keras_private.not_optimized_again`).
    """
    feed_spec, batch_spec = source.specs()
    specs = batch_spec, tf.TensorSpec([], tf.int64), dict(carried_specs)
    while_loop, cond = (replicas.while_loop, replicas.cond) if source.replicated else (tf.while_loop, tf.cond)
    traced = step.get_concrete_function(*specs)
    ready = keras_private.optimized(step, specs, source.replicated) if alone else None
    run = step if ready is None else ready
    if ready is not None:  # a function that is called is optimized by itself
        results = tf.function(results, autograph=False, experimental_attributes={"_noinline": True})

    def loop(feed: Any, first: tf.Tensor, index: tf.Tensor, steps: tf.Tensor, seconds: tf.Tensor, carried: Carried) -> Any:
        # What goes round beside the step costs as much as a small model's step: so it is little, and whether another is
        # to follow is found out beside this one, not in the loop's condition, for which the next step would wait.
        with on_host():  # what is counted there stays there, all the way round the loop
            first, index, steps = tf.identity(first), tf.identity(index), tf.identity(steps)
            if "place" in carried:
                carried = {**carried, "place": tf.identity(carried["place"])}
            # The clock is read in the graph: preparing it, at the first call, is not the steps' time.
            deadline = tf.timestamp() + seconds if has_clock else None
            with tf.control_dependencies([] if deadline is None else [deadline]):  # no step before the clock is read
                i, on = tf.constant(0, tf.int64), steps > 0
        # Its arguments are the batch, the index, what is carried and what it captures.
        counts = bool(traced.inputs[-len(traced.captured_inputs) - len(carried_specs) - 1].consumers())
        log_specs = traced.structured_outputs[0]
        no_logs = tf.nest.map_structure(lambda out: tf.zeros([d or 0 for d in out.shape], out.dtype), log_specs)
        no_row = tf.zeros(traced.structured_outputs[1].shape, tf.float64)
        curve = tf.TensorArray(tf.float64, size=tf.cast(steps, tf.int32), element_shape=no_row.shape)

        def body(i: tf.Tensor, on: tf.Tensor, carried: Carried, logs: Any, curve: tf.TensorArray) -> Any:
            with on_host():
                place, row_number = carried.get("place", first + i), tf.cast(i, tf.int32)
                number = index + i if counts else i
                following = moved(carried)
            exists, get = source.next_batch(feed, place, carried.get("rows"))
            if exists is None:
                logs, row, carried = run(get(), number, following)
            else:
                logs, row, carried = cond(exists, lambda: run(get(), number, following), lambda: (logs, no_row, carried))
            if records:
                curve = curve.write(row_number, row)
            with on_host():
                i += 1
                on = i < steps
                if "stopped_by" in carried:
                    on = tf.logical_and(on, carried["stopped_by"] < 0)
                if deadline is not None:
                    with tf.control_dependencies([row]):  # once the step has been made
                        on = tf.logical_and(on, tf.timestamp() < deadline)
                if exists is not None:  # without a batch this was no step, which a negative number says
                    i, on = tf.where(exists, i, -i), tf.logical_and(on, exists)
                if "place" in carried:  # from here, not by way of the branch, which would bring it to the device
                    carried = {**carried, "place": tf.where(exists, following["place"], place)}
            return i, on, carried, logs, curve

        start = (i, on, carried, no_logs, curve)
        carried_shapes = {name: spec.shape for name, spec in carried_specs.items()}
        log_shapes = tf.nest.map_structure(lambda out: out.shape, log_specs)
        shapes = (tf.TensorShape([]), tf.TensorShape([]), carried_shapes, log_shapes, tf.TensorShape(None))
        i, _, carried, logs, curve = while_loop(lambda i, on, *_: on, body, start, shape_invariants=shapes)
        with on_host():
            ended = i < 0
            ran = tf.where(ended, -i - 1, i)
        return ran, ended, logs or results(), curve.stack() if records else no_row, carried

    specs_of_call = feed_spec, *[tf.TensorSpec([], tf.int64)] * 3, tf.TensorSpec([], tf.float64), dict(carried_specs)
    return tf.function(loop, autograph=False).get_concrete_function(*specs_of_call), ready is not None


def moved(carried: Carried) -> Carried:
    """The place in the data behind the batch that begins there, if it is carried."""
    return {**carried, "place": carried["place"] + carried["rows"]} if "place" in carried else carried
