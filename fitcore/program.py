"""A step function's compiled programs: one for each kind of source, traced at its first use and kept.

The loop around the step, many steps in one compiled call, is `graph_loop`'s, or `blocks`' where XLA compiles it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fitcore import blocks, graph_loop, keras_private, replicas
from fitcore.cluster import role
from fitcore.data.sources import ArraySource, Source, without_optionals
from fitcore.finite import NotFiniteError
from fitcore.graph_loop import Carried
from fitcore.python_draws import Traces
from fitcore.shapes import Shapes

MOST_STEPS = 1 << 16  # per call; bounds the memory that one call's curve takes
MOST_SECONDS = 1e9  # in the graph, for any longer: `tf.debugging.enable_check_numerics` takes an infinity there for a fault

# (batch, step index, carried) -> (logs or None, what is recorded by name: scalars or vectors, carried)
StepFunction = Callable[[Any, tf.Tensor, Carried], tuple[Any, dict[str, Any], Carried]]


class RetraceError(RuntimeError):
    """More programs were traced than the run allows (`max_traces`)."""


@dataclass(frozen=True)
class Chunk:
    """What one compiled call brought back.

    Attributes:
      steps: how many steps ran.
      ended: whether the data ended before the steps asked for had run.
      logs: the logs after the last step, tensors by name; empty if no step ran.
      records: what was recorded by name, float64 arrays: [steps] of scalars, [steps, length] of vectors that aren't empty.
      carried: what the last step left, by name.
    """

    steps: int
    ended: bool
    logs: dict[str, Any]
    records: dict[str, np.ndarray]
    carried: dict[str, np.ndarray]


class Program:
    """A step function compiled into a loop, one trace for each kind of source.

    Args:
      step: the step, traced. Its logs may be None: then `results` gives the logs, once per call instead of per step.
      results: () -> logs, traced after the loop.
      names: names of what the step records, in the order of the curve's columns.
      traced: where to note each program traced; may be shared, so that a limit holds for several Programs together.
      jit_compile: compile the step with XLA, as Keras does with its own.
      run_eagerly: run the step op by op in Python.
      by_xla: blocks of steps are XLA programs: see blocks.py.
      agree: (steps) -> steps, where several processes must make the same calls; then no clock is read in the loop.
      shapes: which trace serves which batches; shared by all Programs that stand for one compiled step of Keras's.
      draws: what their traces drew in Python; shared likewise.
    """

    def __init__(
        self,
        step: StepFunction,
        results: Callable[[], dict[str, Any]],
        names: tuple[str, ...] = (),
        traced: list[str] | None = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
        by_xla: bool = False,
        alone: bool = False,
        agree: Callable[[int], int] | None = None,
        shapes: Shapes | None = None,
        draws: Traces | None = None,
    ) -> None:
        self.names = names
        self._shapes = Shapes() if shapes is None else shapes
        self._draws = Traces() if draws is None else draws
        self._serving: dict[Any, Any] = {}  # by a source's key: spec of the batches in the trace that serves it, None: its own
        self.traced: list[str] = [] if traced is None else traced
        self.max_traces: int | None = None
        self._pace = 0.0  # steps per second of the last call
        self._results = results
        self._compiled_results = tf.function(results, autograph=False)
        self._eager_step = step
        self._run_eagerly = run_eagerly
        self._by_xla = by_xla
        self._alone = alone
        self._not_again: set[Any] = set()  # keys of those whose step is optimized already
        self._agree = agree
        self._compiled: dict[Any, Any] = {}  # concrete functions
        self._past_end: dict[Any, Any] = {}  # concrete functions
        self._by_ones: set[Any] = set()  # keys of those that can't make several steps in a call
        self._step_graphs: dict[Any, tf.Graph] = {}
        self._lengths: dict[str, int] = {}  # of what is recorded; known once the step has been traced

        def flat_step(batch: Any, index: tf.Tensor, carried: Carried) -> tuple[Any, tf.Tensor, Carried]:
            logs, recorded, carried = step(batch, index, carried)
            return {} if logs is None else logs, self._row(recorded), carried

        self._flat_step = flat_step
        # Keras compiles its step as a function of its own with exactly these options; what XLA sees must be the same.
        self._step = tf.function(flat_step, autograph=False, reduce_retracing=True, jit_compile=jit_compile or None)
        self._step_and_results = tf.function(
            lambda batch: self._step(batch, _int64(0), {})[0] or results(), autograph=False, reduce_retracing=True
        )

    def run(
        self,
        source: Source,
        feed: Any,
        first: int,
        index: int,
        steps: int | None,
        seconds: float,
        carried: Carried,
    ) -> Chunk:
        """Run up to `steps` steps, at least one if there are data, and stop early once `seconds` have passed.

        Args:
          source: where batches come from; `feed` is its open pass.
          first: index of the first batch in that pass.
          index: index of the first step in the run.
          steps: how many; None: as many as the data hold.
          seconds: checked before each step but the first. Without a clock in the loop, which op determinism doesn't allow and
            several processes would read differently, as many steps run as fit in at the last call's pace.
          carried: what the first step is handed. Its names are part of the program.

        Raises:
          NotFiniteError: XLA's blocks met a number that isn't finite; no step was made.
        """
        steps = MOST_STEPS if steps is None else min(steps, MOST_STEPS)
        by_op = self._run_eagerly or tf.config.functions_run_eagerly()
        if by_op and self._agree is None:
            return self._run_eager_steps(source, feed, first, index, steps, seconds, carried)
        source = source if by_op else self._served(source)
        call = None if by_op else self._call_for(source, carried)
        if self._key(source) in self._by_ones:
            steps = 1
        fit_in = int(min(seconds * self._pace, MOST_STEPS)) if self._pace else 0
        if not self._has_clock() and seconds < math.inf:
            steps = min(steps, max(1, fit_in))
            steps, seconds = steps if self._agree is None else self._agree(steps), math.inf
        started = time.perf_counter()
        if call is None:
            chunk = self._run_eager_steps(source, feed, first, index, steps, seconds, carried)
            self._pace = chunk.steps / (time.perf_counter() - started)
            role.beat()
            return chunk
        limits = _int64(first), _int64(index), _int64(steps), tf.constant(min(seconds, MOST_SECONDS), tf.float64)
        arguments = (feed, *limits, carried, _int64(fit_in)) if self._by_xla else (feed, *limits, carried)
        again = self._key(source) not in self._not_again
        with contextlib.nullcontext() if again else keras_private.not_optimized_again():
            if isinstance(source, ArraySource) and not source.replicated and not carried:
                ran, ended, logs, curve, left = keras_private.called(call, *arguments)
            else:
                ran, ended, logs, curve, left = call(*arguments)
        count = int(ran)
        if count < 0:
            raise NotFiniteError("A number isn't finite.")
        self._pace = count / (time.perf_counter() - started)
        role.beat()
        records = self._columns(curve.numpy()[:count])
        return Chunk(count, bool(ended), logs if count else {}, records, {name: left[name].numpy() for name in left})

    def run_batch(self, batch: Any) -> dict[str, Any]:
        """Run one step, of index 0, on a batch at hand; returns its logs. As in Keras, its shapes are traced as they are."""
        if self._run_eagerly or tf.config.functions_run_eagerly():
            return self._eager_step(batch, _int64(0), {})[0] or self._results()
        logs: dict[str, Any]
        if not self._compiled:
            logs = self._step_and_results(batch)
            return logs
        role.beat()
        # As in Keras, a step that a fit has traced serves here too. Called from within a function, it would be compiled anew
        # for the shapes known there.
        logs = self._step(batch, _int64(0), {})[0]
        return logs or self._compiled_results()

    def prepare(self, source: Source, carried: Carried) -> None:
        """Trace what `run` would; nothing is run. Where steps run op by op, their trace is made for its variables alone."""
        if self._run_eagerly or tf.config.functions_run_eagerly():
            self._step.get_concrete_function(source.specs()[1], tf.TensorSpec([], tf.int64), _specs(carried))
        else:
            self._call_for(self._served(source), carried)

    def note(self, source: Source) -> None:
        """Take these data for data that `run` has been called with, without running or tracing anything."""
        self._served(source)

    def random_ops(self, source: Source) -> list[str]:
        """Types of those ops in the traced program that draw from a state which no variable holds.

        Op by op there are none: eagerly such ops take their seeds from TensorFlow's global generator.
        """
        traced = self.graph(source)
        if traced is None:
            return []
        graph = traced.as_graph_def()
        nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
        return sorted({node.op for node in nodes if {"seed", "seed2"} <= {*node.attr}})

    def graphs(self) -> list[tf.Graph]:
        """The programs traced so far, whole: the loop, with the step in it."""
        return [call.graph for call in self._compiled.values()]

    def graph(self, source: Source) -> tf.Graph | None:
        """The program that was traced for this source, whole; None if none was."""
        call = self._compiled.get(self._key(self._served(source, known=True)))
        return None if call is None else call.graph

    def step_graph(self, source: Source) -> tf.Graph | None:
        """The graph of one step of the loop that was traced for this source; None if none was."""
        return self._step_graphs.get(self._key(self._served(source, known=True)))

    def _served(self, source: Source, known: bool = False) -> Source:
        """The source, its batches of the shapes that are known in the trace that serves them: see shapes.py.

        Args:
          source: as it is.
          known: leave out what hasn't been asked yet. To ask has a consequence: it is how Keras's step learns of shapes.
        """
        if self._by_xla:  # which needs every shape
            return source
        if source.key not in self._serving and not known:
            spec = source.element_spec()
            self._serving[source.key] = None if spec is None else self._shapes.serving(spec)
        spec = self._serving.get(source.key)
        return source if spec is None else source.served_as(spec)

    def _call_for(self, source: Source, carried: Carried) -> Any:
        key = self._key(source)
        if key not in self._compiled:
            with self._draws.one_more(repr(source.specs()[1])):
                self._compiled[key] = call = self._trace(source, _specs(carried))
            if source.replicated and replicas.remembers_shapes(call.graph):
                self._by_ones.add(key)
        return self._compiled[key]

    def is_traced(self, source: Source) -> bool:
        """Whether `run` on this source would find its program ready."""
        return self._key(self._served(source, known=True)) in self._compiled

    def _key(self, source: Source) -> Any:
        """Op determinism is part of it: TensorFlow then refuses the clock in the loop, and the host bounds the steps."""
        key = (source.key, source.sizes) if self._by_xla and isinstance(source, ArraySource) else source.key
        return (key, "without a clock") if keras_private.op_determinism() else key

    def _has_clock(self) -> bool:
        return self._agree is None and not keras_private.op_determinism()

    def start_without_batch(self, source: Source, feed: Any, index: int, carried: Carried) -> None:
        """Start a step for which there is no batch any more: how Keras finds out that data of unknown size have ended.

        What in a step doesn't depend on its batch happens all the same: the optimizer counts a step, dropout's generators
        move on. Later steps depend on that, so it is done here in the same way, by the same ops. Of several replicas the
        end of the data may overtake one: seldom, in Keras, its optimizer doesn't count the step that the first one's counts.
        Here all count it, as in most of Keras's fits.
        """
        if self._run_eagerly or tf.config.functions_run_eagerly():
            return  # op by op, the missing batch comes first
        source = self._served(source)
        call = self._past_end.get(source.key)
        if call is None:
            feed_spec, _ = source.specs()
            function = tf.function(
                lambda feed, index, carried: self._step(without_optionals(feed.get_next()), index, carried), autograph=False
            )
            call = function.get_concrete_function(feed_spec, tf.TensorSpec([], tf.int64), _specs(carried))
            self._past_end[source.key] = call
        with contextlib.suppress(tf.errors.OutOfRangeError):
            call(feed, _int64(index), carried)
        if source.replicated:
            keras_private.let_copies_agree(call.graph)

    def _trace(self, source: Source, carried_specs: dict[str, tf.TensorSpec]) -> Any:
        what = f"on {self._key(source)!r}, recording {', '.join(self.names) or 'nothing'}"
        if self.max_traces is not None and len(self.traced) >= self.max_traces:
            known = "".join(f"\n  {program}" for program in self.traced)
            raise RetraceError(
                f"One more program would be traced than `max_traces` allows. Received: max_traces={self.max_traces}.\n"
                f"Traced so far:{known or ' none'}\nThis one:\n  {what}"
            )
        has_clock = self._has_clock()
        if self._by_xla:
            call = blocks.trace(self._flat_step, self._results, source, carried_specs, has_clock)
            self.traced.append(what)
            return call
        self.traced.append(what)
        call, alone = graph_loop.trace(
            self._step, self._results, source, carried_specs, has_clock=has_clock, records=bool(self.names), alone=self._alone
        )
        specs = source.specs()[1], tf.TensorSpec([], tf.int64), carried_specs
        self._step_graphs[self._key(source)] = self._step.get_concrete_function(*specs).graph
        if alone:
            self._not_again.add(self._key(source))
        return call

    def _run_eager_steps(
        self, source: Source, feed: Any, first: int, index: int, steps: int, seconds: float, carried: Carried
    ) -> Chunk:
        rows: list[np.ndarray] = []
        logs, ended, deadline = None, False, time.monotonic() + seconds
        while len(rows) < steps and (not rows or time.monotonic() < deadline) and int(carried.get("stopped_by", -1)) < 0:
            exists, get = source.next_batch(feed, carried.get("place", _int64(first + len(rows))), carried.get("rows"))
            if exists is not None and not bool(exists):
                ended = True
                break
            logs, recorded, carried = self._eager_step(get(), _int64(index + len(rows)), graph_loop.moved(carried))
            rows.append(self._row(recorded).numpy())
        width = sum(self._lengths.get(name, 1) for name in self.names)
        columns = self._columns(np.asarray(rows, np.float64).reshape(len(rows), width))
        left = {name: value.numpy() for name, value in carried.items()}
        return Chunk(len(rows), ended, (logs or self._results()) if rows else {}, columns, left)

    def _row(self, recorded: Mapping[str, Any]) -> tf.Tensor:
        """All that a step recorded, side by side."""
        if not self.names:
            return tf.zeros([0], tf.float64)
        values = [tf.cast(tf.convert_to_tensor(recorded[name]), tf.float64) for name in self.names]
        self._lengths = {name: value.shape.num_elements() for name, value in zip(self.names, values)}
        if all(length == 1 for length in self._lengths.values()):
            return tf.stack([tf.reshape(value, []) for value in values])
        return tf.concat([tf.reshape(value, [-1]) for value in values], axis=0)

    def _columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What was recorded in each of these steps, by name."""
        columns, start = {}, 0
        for name in self.names:
            end = start + self._lengths.get(name, 1)
            if end > start:
                columns[name] = rows[:, start] if end == start + 1 else rows[:, start:end]
            start = end
        return columns


def _specs(carried: Carried) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(value.shape, value.dtype) for name, value in carried.items()}


def _int64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)
