"""The inner loop of the fast tier: blocks of steps, each one XLA program.

    call(feed, first batch, step index, how many, seconds, carried):          # a graph of TensorFlow's, as in program.py
        while steps are left, no rule has stopped and the seconds have not passed:
            draws = what the block's steps draw at random, by Keras's own ops, in the steps' order
            curve, carried = block(draws, carried)      # XLA: gather, forward, backward, update; weights stay inside
        return the same as program.py's loop

XLA needs every shape when it compiles. So the batch that is smaller than the others, at a pass's end, has a program of its
own, and a block is compiled for a fixed number of steps, of which it may run fewer. XLA draws other random numbers than
TensorFlow, and on a CPU slowly: so they are drawn outside, and handed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from fitcore import keras_private
from fitcore.data.sources import ArraySource, Source
from fitcore.noise.together import for_xla

BLOCK = 64  # steps at most: a block's start costs as much as a step or two of the smallest models
FIRST = 8  # steps of a call's first block, after which it is known how many fit into its seconds
DRAWN_MOST = 1 << 25  # bytes of random numbers at a time

_OTHERWISE_BY_XLA = ("Random", "Rng", "Multinomial", "Assert")  # parts of the names of ops

FlatStep = Callable[[Any, tf.Tensor, Mapping[str, tf.Tensor]], tuple[Any, tf.Tensor, Mapping[str, tf.Tensor]]]


class NotByXlaError(Exception):
    """Why a step can't be part of an XLA program that trains as TensorFlow's graph does."""


def why_not(source: Source) -> str | None:
    """Why batches of this source can't be had by such a program; None if they can."""
    if isinstance(source, ArraySource) and source.sizes is not None:
        return None
    return "only arrays in memory, in batches of a fixed size, have shapes that are known beforehand"


def trace(
    step: FlatStep,
    results: Callable[[], dict[str, Any]],
    source: Source,
    carried_specs: Mapping[str, tf.TensorSpec],
    has_clock: bool,
) -> Any:
    """The compiled loop: as `Program` calls its own, with the same arguments and the same results.

    Args:
      step: one step, traced.
      results: () -> logs, traced after the loop, where the step has none.
      source: where batches come from.
      carried_specs: of what is carried.
      has_clock: whether the loop may look at the clock.

    Raises:
      NotByXlaError: the step, or the source, can't be in such a program.
    """
    reason = why_not(source)
    if reason is not None:
        raise NotByXlaError(reason)
    assert isinstance(source, ArraySource)
    assert source.sizes is not None
    full, last = (_Block(step, source, rows, carried_specs) if rows else None for rows in source.sizes)
    assert full is not None

    def loop(feed: Any, first: tf.Tensor, index: tf.Tensor, steps: tf.Tensor, seconds: tf.Tensor, carried: Any) -> Any:
        started = tf.timestamp() if has_clock else None
        whole = tf.size(feed[0], out_type=tf.int64) // full.rows  # batches of full size in a pass

        def more(done: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray) -> tf.Tensor:
            wanted = done < steps
            if "stopped_by" in carried:
                wanted = tf.logical_and(wanted, carried["stopped_by"] < 0)
            if started is None:
                return wanted
            return tf.logical_and(wanted, tf.logical_or(tf.equal(done, 0), tf.timestamp() - started < seconds))

        def body(done: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray) -> Any:
            n = steps - done
            if started is not None:
                passed = tf.timestamp() - started
                fit_in = tf.cast(done, tf.float64) * (seconds - passed) / passed
                fit_in = tf.cast(tf.clip_by_value(fit_in, 1.0, BLOCK), tf.int64)  # the seconds may be infinite
                n = tf.minimum(n, tf.where(tf.equal(done, 0), tf.constant(FIRST, tf.int64), fit_in))
            place = first + done

            def run(block: _Block, n: tf.Tensor) -> Any:
                return block.drawn_and_run(feed, place, index + done, tf.cast(n, tf.int32), carried)

            left = whole - place
            if last is None:
                ran, carried, logs, rows = run(full, tf.minimum(n, left))
            else:
                ran, carried, logs, rows = tf.cond(left > 0, lambda: run(full, tf.minimum(n, left)), lambda: run(last, 1))
            positions = tf.range(tf.cast(done, tf.int32), tf.cast(done, tf.int32) + ran)
            return done + tf.cast(ran, tf.int64), carried, logs, curve.scatter(positions, rows)

        curve = tf.TensorArray(tf.float64, size=tf.cast(steps, tf.int32), element_shape=full.row_shape)
        done, carried, logs, curve = tf.while_loop(more, body, (tf.constant(0, tf.int64), carried, full.no_logs(), curve))
        return done, tf.constant(False), logs or results(), curve.stack(), carried

    specs = source.specs()[0], *[_INT64] * 3, tf.TensorSpec([], tf.float64), dict(carried_specs)
    return tf.function(loop, autograph=False).get_concrete_function(*specs)


class _Block:
    """The XLA program of batches of one size.

    Args:
      step, source, carried_specs: as above.
      rows: in a batch.
    """

    def __init__(self, step: FlatStep, source: ArraySource, rows: int, carried_specs: Mapping[str, tf.TensorSpec]) -> None:
        self.rows = rows
        self._draws: list[keras_private.Draw] = []

        def noting(batch: Any, index: tf.Tensor, carried: Any) -> Any:
            self._draws.clear()  # a first trace that makes variables is followed by a second
            with keras_private.draws_noted(self._draws):
                return step(batch, index, carried)

        try:
            once = tf.function(noting, autograph=False).get_concrete_function(
                source.batch_spec(rows), _INT64, dict(carried_specs)
            )
        except keras_private.NotDrawableError as error:
            raise NotByXlaError(str(error)) from error
        self._log_specs, row_spec, _ = once.structured_outputs
        self.row_shape = row_spec.shape
        drawn = sum(each.spec.dtype.size * each.spec.shape.num_elements() for each in self._draws)
        self._most = max(1, min(BLOCK, DRAWN_MOST // max(drawn, 1)))

        def run(feed: Any, first: tf.Tensor, index: tf.Tensor, n: tf.Tensor, carried: Any, draws: Sequence[tf.Tensor]) -> Any:
            def more(i: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray) -> tf.Tensor:
                return tf.logical_and(i < n, carried["stopped_by"] < 0) if "stopped_by" in carried else i < n

            def body(i: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray) -> Any:
                done = tf.cast(i, tf.int64)
                with keras_private.draws_given([each[i] for each in draws]):
                    logs, row, carried = step(source.batch_at(feed, first + done, rows), index + done, carried)
                return i + 1, carried, logs, curve.write(i, row)

            curve = tf.TensorArray(tf.float64, size=self._most, element_shape=self.row_shape)
            ran, carried, logs, curve = tf.while_loop(more, body, (0, carried, self.no_logs(), curve))
            return ran, carried, logs, curve.stack()

        draw_specs = [tf.TensorSpec([self._most, *each.spec.shape], each.spec.dtype) for each in self._draws]
        specs = source.specs()[0], _INT64, _INT64, tf.TensorSpec([], tf.int32), dict(carried_specs), draw_specs
        token = for_xla.set(True)
        try:
            self._run = tf.function(run, autograph=False, jit_compile=True).get_concrete_function(*specs)
        finally:
            for_xla.reset(token)
        graph = self._run.graph.as_graph_def()
        kinds = {node.op for node in itertools.chain(graph.node, *(each.node_def for each in graph.library.function))}
        done_otherwise = sorted(kind for kind in kinds if any(part in kind for part in _OTHERWISE_BY_XLA))
        if done_otherwise:
            raise NotByXlaError(f"XLA does {', '.join(done_otherwise)} otherwise than TensorFlow, or leaves it out")

    def no_logs(self) -> Any:
        """Zeros in place of the logs, before the first step."""
        return tf.nest.map_structure(lambda out: tf.zeros(out.shape, out.dtype), self._log_specs)

    def drawn_and_run(self, feed: Any, first: tf.Tensor, index: tf.Tensor, n: tf.Tensor, carried: Any) -> Any:
        """Up to `n` steps, traced: (how many ran, carried, logs, the rows that they recorded)."""
        n = tf.minimum(n, self._most)
        states = list({id(each.state): each.state for each in self._draws if each.state is not None}.values())
        before = [tf.identity(state) for state in states]
        draws = self._draw(n)
        ran, carried, logs, rows = self._run(feed, first, index, n, carried, draws)

        def draw_less() -> tf.Tensor:  # a rule stopped: the generators are to be where the last step left them
            for state, value in zip(states, before):
                state.assign(value)
            with tf.control_dependencies([tf.identity(each) for each in self._draw(ran)]):
                return tf.identity(ran)

        if "stopped_by" in carried and states:
            ran = tf.cond(ran < n, draw_less, lambda: ran)
        return ran, carried, logs, rows[:ran]

    def _draw(self, n: tf.Tensor) -> list[tf.Tensor]:
        """What `n` steps draw, in their order: for each draw of a step [most, ...], zeros behind the n-th."""
        if not self._draws:
            return []

        def body(i: tf.Tensor, drawn: list[tf.TensorArray]) -> Any:
            return i + 1, [held.write(i, each.make()) for held, each in zip(drawn, self._draws)]

        drawn = [tf.TensorArray(each.spec.dtype, size=self._most, element_shape=each.spec.shape) for each in self._draws]
        return [held.stack() for held in tf.while_loop(lambda i, _: i < n, body, (0, drawn))[1]]


_INT64 = tf.TensorSpec([], tf.int64)
