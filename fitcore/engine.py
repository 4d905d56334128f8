"""The engine: a model's step and its compiled programs, below `fit` and usable without it.

engine = fitcore.Engine(model, optimizer=..., loss=..., metrics=[...], schedule=...)   # every part explicit
fitcore.fit(engine, x, y, epochs=3, hooks=[...])                                                # the same outer loop as fit

stream = fitcore.Stream(fitcore.make_source(x, y, batch_size=32, shuffle=True))        # or a loop of one's own
stream.begin_epoch()
chunk = engine.train(stream, steps=100)                                                # 100 steps, one compiled call
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.assembly import check_noise, check_rules, evaluation_step, training_step
from fitcore.cluster.agreement import Agreement
from fitcore.data import Stream
from fitcore.finite import NotFiniteError
from fitcore.graph_loop import Carried
from fitcore.hooks import Rules
from fitcore.keras_steps import KINDS, KerasSteps
from fitcore.noise import GradientNoise, Probe
from fitcore.optimizers.fused import compare_beforehand, fused, starts_from_zeros
from fitcore.optimizers.in_xla import tracing_for_xla
from fitcore.parts import Loss, compiled_parts, explicit_parts
from fitcore.program import Chunk, Program, StepFunction
from fitcore.python_draws import Traces
from fitcore.replicas import Replicas, components
from fitcore.schedules import EachEpoch
from fitcore.schedules.functions import takes_base
from fitcore.schedules.hyperparameters import BATCH_SIZE, Based, Schedules, current, holds_number, named_schedules
from fitcore.shapes import Shapes
from fitcore.step import (
    RECORDERS,
    Optimizer,
    Parts,
    Recorder,
    check_optimizer,
    metric_results,
    set_learning_rate,
)
from fitcore.tracing import fast, scratch


class Engine:
    """Trains and evaluates by compiled programs, each made once and kept.

    Args:
      model: a Keras model or layer, or any `tf.Module`-like callable with `trainable_variables`; called as
        `model(x, training=...)`, or `model(x)` if it takes no `training`.
      optimizer: a Keras optimizer, or anything with `fitcore.step.Optimizer`'s two methods. None: can only evaluate.
      loss: (y_true, y_pred, sample_weight) -> scalar, for example a `keras.losses.Loss`. The model's own `losses`
        (regularization, `add_loss`) are added to it.
      metrics: Keras metrics, updated with (y_true, y_pred); the running mean of the loss always comes first.
      schedule: learning rate as a function of the step index, traced into the loop, or a mapping from hyperparameters to such
        functions, as in `fit`; for this engine's every step.
      jit_compile: compile the step with XLA. Changes last bits.
      run_eagerly: run op by op, for debugging.
    """

    def __init__(
        self,
        model: Any,
        *,
        optimizer: Optimizer | None = None,
        loss: Loss,
        metrics: Sequence[keras.metrics.Metric] = (),
        schedule: Any = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ) -> None:
        if not callable(loss):
            raise TypeError(f"`loss` must be callable as (y_true, y_pred, sample_weight). Received: loss={loss!r}")
        if optimizer is not None:
            check_optimizer(optimizer)
        parts = explicit_parts(model, optimizer, loss, list(metrics), jit_compile)
        self._set_up(model, parts, jit_compile=jit_compile, run_eagerly=run_eagerly)
        self.schedules = self._based(named_schedules(schedule))

    @classmethod
    def of_compiled(cls, model: keras.Model, kind: str | None = None) -> Engine:
        """The engine of a compiled Keras model: made at its first use, and kept with the model.

        Programs live as long as Keras's own compiled step would, so repeated fits trace nothing: until `compile`, `quantize`,
        `make_train_function(force=True)` or `model.train_function = None` makes an end of that. The model's `train_step`,
        `test_step`, `compute_loss` and `compute_metrics` are honoured if its class has its own.

        Args:
          model: compiled.
          kind: "train" or "test", for what is to be run now: Keras's step of that kind is made, if there is none, as by Keras's
            own methods.
        """
        engine: Engine | None = vars(model).get("_fitcore_engine")
        strategy = keras_private.strategy_of(model)
        if engine is None or engine.strategy is not strategy:
            engine = cls.__new__(cls)
            engine._set_up(model, None, jit_compile=model.jit_compile, run_eagerly=model.run_eagerly)
            engine._steps = KerasSteps(model)
            engine.replicas = None if strategy is None else Replicas(strategy)
            # Not setattr: Keras would look for layers and variables in it.
            vars(model)["_fitcore_engine"] = engine
        for each in KINDS:
            engine.follow(each, make=each == kind)
        return engine

    def _set_up(self, model: Any, parts: Parts | None, *, jit_compile: bool, run_eagerly: bool) -> None:
        self.model = model
        self._parts = parts
        self.jit_compile = bool(jit_compile)
        self.run_eagerly = bool(run_eagerly)
        self.numerics = "exact"
        self.replicas: Replicas | None = None  # of the strategy that the model belongs to
        self.by_xla = False  # whether training programs are made of XLA blocks
        self.plans: dict[Any, str] = {}  # what was chosen for the programs so far: see plans.py
        self._steps: KerasSteps | None = None  # of a compiled Keras model: what the programs follow
        self._variables_made = False
        self._programs: dict[Any, Program] = {}
        self._probes: dict[GradientNoise, Probe] = {}
        self._traced: dict[str, list[str]] = {"train": [], "test": []}
        self._shapes: dict[str, Shapes] = {"train": Shapes(), "test": Shapes()}
        self.draws: dict[str, Traces] = {"train": Traces(), "test": Traces()}  # of the traces of each
        self._traces_forgotten = 0  # of programs that are no more
        self._compared: Any = None  # the optimizer whose updates were compared with Keras's, or are to be at the first trace
        self.stop_training = False  # for Keras's callbacks, where the model is no Keras model
        self.stop_evaluating = False
        self.history: Any = None
        self.schedules = {}  # of the step alone, by hyperparameter; part of the training programs
        self._bases: dict[str, tf.Variable] = {}
        self.validation: Any = None  # during a fit: what a model class's own `evaluate` validates on, Keras's iterator

    @property
    def parts(self) -> Parts:
        """What the step is made of. Of a compiled model: what it has now, for so Keras takes it, whenever it traces."""
        if self._steps is not None and (self._parts is None or self._steps.has_other_parts()):
            self._parts = compiled_parts(self.model, self.jit_compile)
        assert self._parts is not None
        return self._parts

    def follow(self, kind: str, make: bool = True) -> None:
        """Forget the programs of this kind, "train" or "test", if Keras's own compiled step of it is another by now."""
        if self._steps is None or not self._steps.changed(kind, make):
            return
        self._programs = {key: each for key, each in self._programs.items() if (key == "test") != (kind == "test")}
        self._traces_forgotten += len(self._traced[kind])
        self._traced[kind], self._shapes[kind], self.draws[kind] = [], Shapes(), Traces()
        if kind == "train":
            self._probes, self.plans, self._variables_made, self._parts = {}, {}, False, None
            self.jit_compile, self.run_eagerly = self._steps.train.jit_compile, self._steps.train.run_eagerly

    def why_not_executed(self, kind: str) -> str | None:
        """Why Keras's step of this kind would not run as many steps as Keras would count; None if it would."""
        if self._steps is None or not self._traced[kind] or not self._steps.has_other_executions(kind):
            return None
        return (
            f"its steps_per_execution was set to {self.model.steps_per_execution} after its step had been compiled for "
            f"{self._steps.of(kind).steps_per_execution}. Keras would count by one and run the other: call `compile()` instead."
        )

    def check_step(self, kind: str, steps_per_execution: int) -> None:
        """Refuse to go on if a callback has made an end of Keras's compiled step, as Keras does at its next step.

        Args:
          kind: "train" or "test".
          steps_per_execution: as it was when the fit or the evaluation began.

        Raises:
          TypeError: there is none.
          ModelError: it is somebody else's by now, or makes another number of steps.
        """
        if self._steps is not None:
            self._steps.check(kind, steps_per_execution)

    # --- running --------------------------------------------------------------------------------------------------------

    def train(
        self,
        stream: Stream,
        steps: int | None = None,
        *,
        index: int = 0,
        seconds: float = math.inf,
        record: Any = (),
        rules: Rules | None = None,
        state: Any = None,
    ) -> Chunk:
        """Train for up to `steps` steps in one compiled call; the stream moves on by as many.

        Args:
          stream: the data, with an epoch begun.
          steps: how many at most; None: what the epoch still holds.
          index: index of the first step, seen by schedules and recorders.
          seconds: return after the step during which this much time has passed.
          record: names in `fitcore.step.RECORDERS` or of metrics, or a mapping from names to recorders.
          rules: decide after each step, inside the loop; what they read must be recorded.
          state: theirs, as `Rules.pack` gives it; the call brings it back as `carried["state"]`.

        Returns:
          What the call brought back; `records` hold one float64 per step.
        """
        program = self.train_program(record, rules)
        self._make_variables(stream)
        try:
            return self._run(program, stream, steps, index, seconds, _carried(stream, rules, state))
        except NotFiniteError:  # no step was made: these and all that follow are TensorFlow's
            self.by_xla = False
            self.train_program(record, rules).max_traces = program.max_traces
            return self.train(stream, steps, index=index, seconds=seconds, record=record, rules=rules, state=state)

    def note_evaluation(self, stream: Stream) -> None:
        """Let the evaluating program know of data that another process has evaluated on: as if it had been here."""
        self.test_program().note(stream.source)

    def prepare(self, stream: Stream, record: Any, rules: Rules | None, state: Any) -> None:
        """Trace the program that `train` with these arguments would run; then every variable is there. Nothing is trained."""
        program = self.train_program(record, rules)
        self._make_variables(stream)
        program.prepare(stream.source, _carried(stream, rules, state))

    def random_ops(self, stream: Stream, record: Any, rules: Rules | None) -> list[str]:
        """Types of ops in the program that `train` with these arguments has traced that draw from a state no variable holds."""
        return self.train_program(record, rules).random_ops(stream.source)

    def step_graph(self, stream: Stream, record: Any, rules: Rules | None) -> tf.Graph | None:
        """The graph of one step in the program that `train` with these arguments runs; None if it isn't traced."""
        return self.train_program(record, rules).step_graph(stream.source)

    def program_graph(self, stream: Stream, record: Any, rules: Rules | None) -> tf.Graph | None:
        """The whole program that `train` with these arguments runs; None if it isn't traced."""
        return self.train_program(record, rules).graph(stream.source)

    def training_step(self, record: Any) -> StepFunction:
        """The step function of the program that records this, not traced."""
        return self._training_step(self.recorders(record), None)

    def graphs(self) -> list[tf.Graph]:
        """The programs traced so far for training, whole."""
        return [graph for key, program in self._programs.items() if key != "test" for graph in program.graphs()]

    def evaluate_steps(self, stream: Stream, steps: int | None = None, *, seconds: float = math.inf) -> Chunk:
        """Evaluate up to `steps` batches in one compiled call; metrics accumulate."""
        return self._run(self.test_program(), stream, steps, 0, seconds, _carried(stream))

    def train_on_batch(self, batch: Any, program: Program | None = None) -> dict[str, Any]:
        """Train on one batch at hand, (x,), (x, y) or (x, y, sample_weight), by this engine's program or the one given. Returns
        the logs, tensors; metrics accumulate."""
        return (program or self.train_program(self.default_record)).run_batch(batch)

    def test_on_batch(self, batch: Any) -> dict[str, Any]:
        """Evaluate one batch at hand. As `train_on_batch`."""
        return self.test_program().run_batch(batch)

    @contextlib.contextmanager
    def settings(self, schedule: Any, numerics: str) -> Iterator[None]:
        """Within it the training programs follow fit's `numerics` and `schedule`, besides the engine's own schedules.

        The learning rate that the optimizer had before is the base, and is put back at the end: a schedule belongs to the
        fit, so that in a loop of fits each begins from the same base.

        Raises:
          TypeError, ValueError: it is no schedule, or the optimizer hasn't got what it schedules.
        """
        named = named_schedules(schedule)
        per_step = {name: each for name, each in named.items() if not isinstance(each, EachEpoch) and name != BATCH_SIZE}
        kept, optimizer = self.schedules, self.parts.optimizer
        rate = current(optimizer, "learning_rate") if "learning_rate" in per_step else None
        self.schedules, self.numerics = {**kept, **self._based(per_step)}, numerics
        token = fast.set(numerics == "fast")
        try:
            yield
        finally:
            fast.reset(token)
            self.schedules, self.numerics, self.by_xla = kept, "exact", False
            if rate is not None and not holds_number(optimizer):
                set_learning_rate(optimizer, rate)

    def _based(self, schedules: Schedules) -> Schedules:
        """The schedules as functions of the step alone, their bases being what the optimizer has now."""
        based = {}
        for name, schedule in schedules.items():
            if self.parts.optimizer is None:
                raise ValueError("`schedule` needs an optimizer. Received: optimizer=None")
            value = current(self.parts.optimizer, name)
            based[name] = schedule
            if takes_base(schedule):
                if value is None and getattr(schedule, "base", None) is None:
                    raise ValueError(
                        f"`schedule` of {name!r} starts from the optimizer's own, which is None: give it a `base`."
                    )
                if name not in self._bases:
                    self._bases[name] = scratch(tf.Variable(0.0, trainable=False, dtype=keras.config.floatx()))
                self._bases[name].assign(value or 0.0)
                based[name] = Based(schedule, self._bases[name])
        return based

    def bases(self) -> dict[str, float]:
        """What schedules start from, by hyperparameter."""
        return {name: float(base) for name, base in self._bases.items()}

    def load_bases(self, bases: Mapping[str, float]) -> None:
        """Let schedules start from what they started from in another process."""
        for name, base in bases.items():
            self._bases[name].assign(base)

    def reset_metrics(self) -> None:
        """Start the running means afresh, as at an epoch's start."""
        if self.is_compiled and (self.replicas is not None or keras_private.overrides(self.model, "reset_metrics")):
            self.model.reset_metrics()
            return
        for metric in self.parts.metrics():
            if type(metric) is keras.metrics.Mean:  # as Keras's own does, in a tenth of a short fit's time less
                for variable in metric.variables:
                    variable.value.assign(tf.zeros([], variable.dtype), read_value=False)
            else:
                metric.reset_state()

    def epoch_logs(self, logs: Any, untouched: bool = False) -> Any:
        """The logs of an epoch whose last step left `logs`: the metrics' state, unless a step of one's own logs else.

        Args:
          logs: of that step.
          untouched: whether nobody can have changed a metric since.
        """
        if self.is_compiled:
            return logs if untouched and self._logs_means() else keras_private.metrics_or_logs(self.model, logs)
        return metric_results(self.parts.metrics())

    def _logs_means(self) -> bool:
        """Whether a program's logs are the metrics' results, and these plain means: the same bits in a graph as op by op."""
        own = ("train_step", "compute_metrics", "get_metrics_result")
        if self.replicas is not None or any(keras_private.overrides(self.model, name) for name in own):
            return False
        return keras_private.are_means(self.model)

    def get_weights(self) -> list[np.ndarray]:
        """The weights, moving statistics included, as arrays: `model.get_weights()`."""
        return [np.asarray(variable) for variable in self._weights()]

    def set_weights(self, values: Sequence[np.ndarray]) -> None:
        """Put such weights back."""
        for variable, value in zip(self._weights(), values):
            variable.assign(value)

    def _weights(self) -> Sequence[Any]:
        return self.model.weights if isinstance(self.model, keras.layers.Layer) else self.model.trainable_variables

    @contextlib.contextmanager
    def metrics_kept(self) -> Iterator[None]:
        """Put the running metrics back as they were: for an evaluation in the middle of an epoch."""
        variables = [each for metric in self.parts.metrics() for variable in metric.variables for each in components(variable)]
        before = [variable.numpy() for variable in variables]
        try:
            yield
        finally:
            for variable, value in zip(variables, before):
                variable.assign(value)

    def _make_variables(self, stream: Stream) -> None:
        """Before the first step, rather than in its trace: see `keras_private.make_variables`."""
        made, self._variables_made = self._variables_made, True
        plain = self.is_compiled and self.strategy is None and not self.run_eagerly and not self.has_own_step
        if made or not plain or not starts_from_zeros(self.parts.optimizer):
            return
        if not any(keras_private.overrides(self.model, name) for name in ("compute_loss", "compute_metrics")):
            keras_private.make_variables(self.model, stream.source.specs()[1])
            compare_beforehand(self.parts.optimizer, self.parts.trainable())

    def _run(self, program: Program, stream: Stream, steps: int | None, index: int, seconds: float, carried: Carried) -> Chunk:
        left = stream.remaining()
        if left is not None:
            steps = left if steps is None else min(steps, left)
        chunk = program.run(stream.source, stream.feed, stream.place, index, steps, seconds, carried)
        if chunk.ended and chunk.steps == 0 and stream.steps_per_execution == 1:
            program.start_without_batch(stream.source, stream.feed, index, carried)
        if stream.rows is None:
            stream.advance(chunk.steps)
        else:
            stream.advance(chunk.steps, int(chunk.carried["place"]), int(chunk.carried["rows"]))
        return chunk

    # --- programs -------------------------------------------------------------------------------------------------------

    def train_program(self, record: Any = (), rules: Rules | None = None) -> Program:
        """The program that trains with the settings as they are, records `record` and applies `rules`.

        Raises:
          ValueError: a rule reads what is not recorded; the optimizer needs noise that can't be measured.
        """
        if self.parts.optimizer is None and not self.has_own_step:
            raise ValueError("`optimizer` is needed to train. Received: optimizer=None")
        self.follow("train")
        optimizer = self.parts.optimizer
        if optimizer is not self._compared:  # a second trace may make no variable, as the comparison does
            if self._compared is not None:
                compare_beforehand(optimizer, self.parts.trainable())
            self._compared = optimizer
        check_noise(optimizer, self.has_own_step, self.run_eagerly)
        recorders = self.recorders(record)
        check_rules(rules, recorders)
        key = ("train", tuple(recorders.items()), rules, self.numerics, self.by_xla, tuple(sorted(self.schedules.items())))
        if key not in self._programs:
            self._programs[key] = self._program(
                "train", self._training_step(recorders, rules), tuple(recorders), by_xla=self.by_xla
            )
        return self._programs[key]

    def test_program(self) -> Program:
        """The program that evaluates."""
        self.follow("test")
        if "test" not in self._programs:
            own_step = None if self._steps is None else self._steps.test.own_step
            step = self._of_parts(lambda parts: evaluation_step(parts, own_step, self.replicas))
            self._programs["test"] = self._program("test", step, ())
        return self._programs["test"]

    @property
    def strategy(self) -> Any:
        """The `tf.distribute` strategy that the model belongs to, or None."""
        return None if self.replicas is None else self.replicas.strategy

    @property
    def num_replicas(self) -> int:
        """How many a step is run on; 1 without a strategy."""
        return 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)

    @property
    def agreement(self) -> Agreement | None:
        """Of the processes that train together; None if this one trains alone."""
        return None if self.replicas is None else self.replicas.agreement

    @property
    def traces(self) -> int:
        """Programs traced so far, training and evaluation together."""
        return self._traces_forgotten + sum(map(len, self._traced.values()))

    @property
    def is_compiled(self) -> bool:
        """Whether this is the engine of a compiled Keras model, rather than of explicit parts."""
        return self._steps is not None

    @property
    def steps_op_by_op(self) -> bool:
        """Whether Python runs each op of a step itself: by `run_eagerly`, or by TensorFlow's own switch."""
        return self.run_eagerly or tf.config.functions_run_eagerly()

    @property
    def steps_per_execution(self) -> int:
        """What the user set in `compile`, else 1. It tells when batch callbacks are called, not how many steps run."""
        return self.model.steps_per_execution if self.is_compiled else 1

    def steps_done(self) -> int:
        """Steps the optimizer has made so far (micro-steps, if it accumulates gradients)."""
        optimizer: Any = self.parts.optimizer
        if isinstance(optimizer, keras.optimizers.Optimizer):
            return keras_private.steps_counted(optimizer)
        return int(getattr(optimizer, "iterations", 0))

    @property
    def has_own_step(self) -> bool:
        """Whether the model's class brought a `train_step` of its own."""
        return self._own_train_step is not None

    @property
    def _own_train_step(self) -> Callable[[Any], Any] | None:
        return None if self._steps is None else self._steps.train.own_step

    def _of_parts(self, make: Callable[[Parts], StepFunction]) -> StepFunction:
        """The step that `make` makes of the parts, made again where a trace finds other parts than the last one did."""
        parts, step = self.parts, make(self.parts)

        def current(batch: Any, index: tf.Tensor, carried: Carried) -> Any:
            nonlocal parts, step
            if self.parts is not parts:
                parts, step = self.parts, make(self.parts)
            return step(batch, index, carried)

        return current

    def _program(self, kind: str, step: Any, names: tuple[str, ...], by_xla: bool = False) -> Program:
        made_with: Any = self if self._steps is None else self._steps.of(kind)
        results = self.model.get_metrics_result if self.is_compiled else lambda: metric_results(self.parts.metrics())
        return Program(
            step,
            results if self.replicas is None else self.replicas.results(results),
            names,
            self._traced[kind],
            jit_compile=made_with.jit_compile,
            run_eagerly=made_with.run_eagerly,
            by_xla=by_xla,
            # With several steps in an execution Keras's own loop is what TensorFlow optimizes.
            alone=made_with.steps_per_execution == 1 and not made_with.jit_compile and self.agreement is None,
            agree=None if self.agreement is None else self.agreement.steps,
            shapes=self._shapes[kind],
            draws=self.draws[kind],
        )

    def _training_step(self, recorders: Mapping[str, Recorder | None], rules: Rules | None) -> StepFunction:
        noises: list[tuple[str, Any]] = [(name, each) for name, each in recorders.items() if isinstance(each, GradientNoise)]
        schedules, numerics, by_xla = self.schedules, self.numerics, self.by_xla  # another fit may trace for other shapes

        def make(parts: Parts) -> StepFunction:
            wanted: GradientNoise | None = getattr(parts.optimizer, "noise", None)
            return training_step(
                parts,
                self._own_train_step,
                recorders,
                probes={name: self.probe(noise) for name, noise in noises},
                for_optimizer=None if wanted is None else self.probe(wanted),
                rules=rules,
                schedules=schedules,
                update=functools.partial(tracing_for_xla, self.model, parts.optimizer)
                if by_xla
                else functools.partial(
                    fused, parts.optimizer, numerics, jit_compile=self.jit_compile, run_eagerly=self.run_eagerly
                ),
                replicas=self.replicas,
            )

        return self._of_parts(make)

    def probe(self, noise: GradientNoise) -> Probe:
        """What measures the gradient noise in the programs that record `noise`."""
        if noise not in self._probes:
            self._probes[noise] = Probe(self.model, noise, self.num_replicas, self.jit_compile)
        return self._probes[noise]

    @property
    def default_record(self) -> tuple[str, ...]:
        """What is recorded unless something else is asked for."""
        return () if self.has_own_step else ("step/loss",)

    def recorders(self, *records: Iterable[str] | Mapping[str, Recorder | None]) -> dict[str, Recorder | None]:
        """Names to record and how; None stands for "take it from the logs".

        Raises:
          ValueError: if the model's own train_step hides what is asked for.
        """
        named: dict[str, Recorder | None] = {}
        for record in records:
            if isinstance(record, str):
                raise TypeError(f"`record` must be a list of names or a mapping from names to recorders. Received: {record!r}")
            named |= record if isinstance(record, Mapping) else {name: RECORDERS.get(name) for name in record}
        hidden = sorted(name for name, recorder in named.items() if recorder is not None)
        if self.has_own_step and hidden:
            raise ValueError(
                f"`record` asks for {hidden}, but {type(self.model).__name__} has a train_step of its own, whose inner "
                "values can't be seen. Record what it returns in its logs, by their names."
            )
        return named


def _carried(stream: Stream, rules: Rules | None = None, state: Any = None) -> Carried:
    """What the first step of a call is handed."""
    carried = {} if rules is None else {"state": state, "stopped_by": tf.constant(-1, tf.int64)}
    if stream.rows is not None:
        carried |= {"rows": tf.constant(stream.rows, tf.int64), "place": tf.constant(stream.place, tf.int64)}
    return carried
