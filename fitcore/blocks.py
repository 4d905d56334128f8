"""The inner loop of the fast tier: blocks of steps, each one XLA program.

    call(feed, first batch, step index, how many, seconds, carried, fit in):  # a graph of TensorFlow's, as in program.py
        before = all variables
        draws = what the first block's steps draw at random, by Keras's own ops
        while steps are left, no rule has stopped and the seconds have not passed:
            curve, carried = block(draws, carried)      # XLA: gather, forward, backward, update; weights stay inside
            draws = the next block's, meanwhile
        return the same as program.py's loop, or -1 steps if a number wasn't finite: then the variables are put back

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
from fitcore.finite import Before, all_finite
from fitcore.tracing import for_xla

BLOCK = 4096  # steps at most: a block's start costs as much as fifty steps of the smallest models
FIRST = 8  # steps of a call's first block, if it isn't known how many fit into its seconds, or if they draw
HEAVY, LONGER = 16, 4  # if fewer than so many fit in, a call takes longer: each start costs the time of such a step
BYTES = 1 << 20  # of random numbers and of what is recorded, at most, in a block,
MORE_BYTES = 4 << 20  # but up to so many where it would be fewer than `FIRST` steps: at each start memory is had anew

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
    """The compiled loop: as `Program` calls its own, with the same results and the same arguments but one at the end: an int64,
    as many steps as fit into the seconds, or 0 if that isn't known.

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
    token = for_xla.set(True)
    try:
        full, last = (_Block(step, source, rows, carried_specs) if rows else None for rows in source.sizes)
    finally:
        for_xla.reset(token)
    assert full is not None

    def loop(
        feed: Any, first: tf.Tensor, index: tf.Tensor, steps: tf.Tensor, seconds: tf.Tensor, carried: Any, fit_in: tf.Tensor
    ) -> Any:
        started = tf.timestamp() if has_clock else None
        end = first + tf.minimum(steps, tf.size(feed[0], out_type=tf.int64) // full.rows - first)  # of batches of full size

        before = Before([*full.variables, *(() if last is None else last.variables)])

        def more(done: tf.Tensor, finite: tf.Tensor, carried: Any, *_: Any) -> tf.Tensor:
            wanted = tf.logical_and(done < steps, finite)
            if "stopped_by" in carried:
                wanted = tf.logical_and(wanted, carried["stopped_by"] < 0)
            if started is None:
                return wanted
            return tf.logical_and(wanted, tf.logical_or(tf.equal(done, 0), tf.timestamp() - started < seconds))

        def body(
            done: tf.Tensor, _: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray, n: tf.Tensor, draws: Any
        ) -> Any:
            following = tf.minimum(end - (first + done + n), full.most)
            if started is not None:  # as many as will fit in after this block; a few before that is known
                passed = tf.maximum(tf.timestamp() - started, 1e-6)  # two readings may be the same
                left = tf.cast(done, tf.float64) * (seconds - passed) / passed - tf.cast(n, tf.float64)
                left = tf.cast(tf.clip_by_value(left, FIRST, BLOCK), tf.int64)
                expected = tf.where(fit_in > 0, tf.maximum(fit_in - n, 1), 4 * FIRST)
                following = tf.minimum(following, tf.where(tf.equal(done, 0), expected, left))
            drawn_meanwhile = full.draw(following, skipped=n)

            def run(block: _Block, n: tf.Tensor, draws: Any) -> Any:
                return block.run(feed, first + done, index + done, n, carried, draws)

            if last is None:
                ran, finite, carried, logs, rows = run(full, n, draws)
            else:
                one = tf.constant(1, tf.int64)
                ran, finite, carried, logs, rows = tf.cond(
                    n > 0, lambda: run(full, n, draws), lambda: run(last, one, last.draw(one, skipped=0 * one))
                )
            return done + ran, finite, carried, logs, curve.write(curve.size(), rows), following, drawn_meanwhile

        zero = tf.constant(0, tf.int64)
        if has_clock and full.draws_any:  # what a longer block draws is better drawn while another runs
            n = tf.minimum(end - first, min(FIRST, full.most))
        elif has_clock:
            n = tf.where(fit_in < HEAVY, LONGER * fit_in, fit_in)
            n = tf.minimum(end - first, tf.clip_by_value(n, min(FIRST, full.most), full.most))
        else:
            n = tf.minimum(end - first, full.most)
        curve = tf.TensorArray(tf.float64, size=0, dynamic_size=True, infer_shape=False, element_shape=[None, *full.row_shape])
        start = zero, tf.constant(True), carried, full.no_logs(), curve, n, full.draw(n, skipped=zero)
        done, finite, carried, logs, curve, *_ = tf.while_loop(more, body, start)
        done = tf.where(before.kept_if(finite, logs), done, -1)
        return done, tf.constant(False), logs or results(), curve.concat(), carried

    specs = source.specs()[0], *[_INT64] * 3, tf.TensorSpec([], tf.float64), dict(carried_specs), _INT64
    return tf.function(loop, autograph=False).get_concrete_function(*specs)


class _Block:
    """The XLA program of batches of one size.

    Args:
      step, source, carried_specs: as above.
      rows: in a batch.

    Attributes:
      most: steps that it can make.
      variables: what its steps read or write.
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
        self.variables = keras_private.captured_handles(once)
        kept = [row_spec, *(each.spec for each in self._draws)]
        of_a_step = max(1, sum(spec.dtype.size * spec.shape.num_elements() for spec in kept))
        self.most = max(1, min(FIRST, MORE_BYTES // of_a_step), min(BLOCK, BYTES // of_a_step))

        def run(feed: Any, first: tf.Tensor, index: tf.Tensor, n: tf.Tensor, carried: Any, draws: Sequence[tf.Tensor]) -> Any:
            def more(i: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray) -> tf.Tensor:
                return tf.logical_and(i < n, carried["stopped_by"] < 0) if "stopped_by" in carried else i < n

            def body(i: tf.Tensor, carried: Any, logs: Any, curve: tf.TensorArray) -> Any:
                done = tf.cast(i, tf.int64)
                with keras_private.draws_given([each[i] for each in draws]):
                    logs, row, carried = step(source.batch_at(feed, first + done, rows), index + done, carried)
                return i + 1, carried, logs, curve.write(i, row)

            curve = tf.TensorArray(tf.float64, size=self.most, element_shape=self.row_shape)
            ran, carried, logs, curve = tf.while_loop(more, body, (0, carried, self.no_logs(), curve))
            finite = all_finite([logs, *(variable.read() for variable in self.variables)])
            return ran, finite, carried, logs, curve.stack()

        # Not a part of the graph around it: else its ops and the XLA program would wait for each other in one thread.
        self._drawn = tf.function(self._make_draws, autograph=False, experimental_attributes={"_noinline": True})
        draw_specs = [tf.TensorSpec([self.most, *each.spec.shape], each.spec.dtype) for each in self._draws]
        specs = source.specs()[0], _INT64, _INT64, tf.TensorSpec([], tf.int32), dict(carried_specs), draw_specs
        self._run = tf.function(run, autograph=False, jit_compile=True).get_concrete_function(*specs)
        graph = self._run.graph.as_graph_def()
        kinds = {node.op for node in itertools.chain(graph.node, *(each.node_def for each in graph.library.function))}
        done_otherwise = sorted(kind for kind in kinds if any(part in kind for part in _OTHERWISE_BY_XLA))
        if done_otherwise:
            raise NotByXlaError(f"XLA does {', '.join(done_otherwise)} otherwise than TensorFlow, or leaves it out")

    @property
    def draws_any(self) -> bool:
        """Whether its steps draw random numbers."""
        return bool(self._draws)

    def no_logs(self) -> Any:
        """Zeros in place of the logs, before the first step."""
        return tf.nest.map_structure(lambda out: tf.zeros(out.shape, out.dtype), self._log_specs)

    def run(self, feed: Any, first: tf.Tensor, index: tf.Tensor, n: tf.Tensor, carried: Any, draws: list[tf.Tensor]) -> Any:
        """Up to `n` steps, traced: (how many ran, whether all numbers are finite, carried, logs, what they recorded)."""
        ran, finite, carried, logs, rows = self._run(feed, first, index, tf.cast(n, tf.int32), carried, draws)
        done = tf.cast(ran, tf.int64)
        keras_private.move_on(self._draws, done)
        return done, finite, carried, logs, rows[:ran]

    def draw(self, n: tf.Tensor, skipped: tf.Tensor) -> list[tf.Tensor]:
        """What `n` steps draw, traced, the next `skipped` ones left out: for each draw of a step [most, ...].

        The generators stay as they are, until `run` has made the steps.
        """
        if not self._draws:
            return []
        seeds = keras_private.seeds_ahead(self._draws, skipped, self.most)
        drawn: list[tf.Tensor] = self._drawn(tf.cast(n, tf.int32), seeds)
        return drawn

    def _make_draws(self, n: tf.Tensor, seeds: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        def body(i: tf.Tensor, drawn: list[tf.TensorArray]) -> Any:
            return i + 1, [held.write(i, each.make(seed[i])) for held, each, seed in zip(drawn, self._draws, seeds)]

        drawn = [tf.TensorArray(each.spec.dtype, size=self.most, element_shape=each.spec.shape) for each in self._draws]
        return [held.stack() for held in tf.while_loop(lambda i, _: i < n, body, (0, drawn))[1]]


_INT64 = tf.TensorSpec([], tf.int64)
