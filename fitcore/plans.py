"""In which form `numerics="fast"` trains: measured once for a model, its batches and this machine, and remembered.

    graph   TensorFlow's kernels, as numerics="exact" has them, but for the optimizer's (optimizers/fused.py) and, on a CPU,
            those of convolutions and batch normalizations (onednn.py)
    xla     blocks of steps, each one XLA program (blocks.py)

XLA makes one loop of what are hundreds of ops for TensorFlow, which is most of the time of a small model's step; but what
convolutions.py leaves to it of convolutions on a CPU is ten times slower. For a model between the two nobody can tell
beforehand, so both train for a few dozen steps; then every variable and random generator is put back as it was. What was
found is kept on disk: see `remembered.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from fitcore import keras_private
from fitcore import remembered as on_disk
from fitcore.blocks import NotByXlaError, why_not
from fitcore.checkpoint import randomness
from fitcore.checkpoint.fingerprint import words
from fitcore.data import ArraySource, Source, Stream
from fitcore.data.order import KerasOrder
from fitcore.engine import Engine
from fitcore.outside import load_table, table_state
from fitcore.run import Run

PLANS = ("auto", "graph", "xla")
PROGRAMS = 3  # how the forms' programs are made: what was measured of others counts no longer
STEPS, ROUNDS = 16, 3  # of each form, when measuring
CLOSE, MORE_ROUNDS = 1.25, 9  # where they take about as long, so many: one may have been disturbed
CALL_SECONDS, MOST_STEPS = 0.02, 1024  # more steps of those so short that a call's own cost would count, up to so many
HOPELESS, SLOW = 3.0, 0.005  # times slower than the other form in its first steps, and seconds per step: no more are made


@dataclass(frozen=True)
class Measured:
    """How long a step takes in each form.

    Attributes:
      graph, xla: seconds per step; of XLA None where it can't be used.
      why: why it can't, in words; else empty.
    """

    graph: float
    xla: float | None
    why: str = ""

    @property
    def plan(self) -> str:
        """The faster one."""
        return "xla" if self.xla is not None and self.xla < self.graph else "graph"

    def __str__(self) -> str:
        if self.xla is None:
            return f"graph; XLA can't be used: {self.why}"
        return f"{self.plan}; measured: {1e6 * self.graph:.0f} µs per step by TensorFlow's kernels, {1e6 * self.xla:.0f} by XLA"


def why_not_xla(engine: Engine, source: Source) -> str | None:
    """Why XLA needn't be tried, from what is known without tracing; None if it is to be."""
    if engine.steps_op_by_op:
        return "the model runs eagerly"
    if keras_private.ops_are_watched():
        return "tf.debugging watches each op, by ops that XLA hasn't got"
    return why_not(source)


def choose(run: Run, record: Any, plan: str) -> bool:
    """Whether the run's training programs are to be XLA's. Within `Engine.settings(..., "fast")`.

    Args:
      run: at its start.
      record: what is recorded at each step.
      plan: "auto": what was measured for such a fit before, or is now; "graph" or "xla": that form.

    Raises:
      ValueError: `plan` is "xla", and XLA can't be used.
    """
    if plan == "graph":
        return False
    engine, source = run.engine, run.stream.source
    reason = why_not_xla(engine, source)
    sizes, recorders = getattr(source, "sizes", None), tuple(engine.recorders(record).items())
    program = (source.key, sizes, recorders, run.rules, tuple(sorted(engine.schedules)))
    if plan == "xla":
        if reason is None and ("xla", program) not in engine.plans:
            try:
                _prepare(run, record, by_xla=True)
                with _put_back(run):
                    _seconds(run, record, 1)
                engine.plans["xla", program] = "xla"
            except (NotByXlaError, tf.errors.OpError) as error:
                reason = _in_words(error)
        if reason is not None:
            raise ValueError(f'`plan`: XLA can\'t be used for this fit: {reason}. Received: plan="xla"')
        return True
    if reason is not None:
        return False
    if program not in engine.plans:
        key = key_of(engine, source, record, run.rules)
        known = remembered(key)
        if known is None:
            known = _measure(run, record)
            if known is None:
                return False
            _remember(key, known)
        engine.plans[program] = known.plan
    return engine.plans[program] == "xla"


def expected(engine: Engine, source: Source | None, record: Any, rules: Any, plan: str) -> tuple[bool, str]:
    """What `choose` would choose without measuring: (whether XLA, and why, in words)."""
    if plan != "auto":
        return plan == "xla", f"{plan}, as asked for"
    reason = "a Python generator's shapes aren't known beforehand" if source is None else why_not_xla(engine, source)
    if source is None or reason is not None:
        return False, f"graph; {reason}"
    found = remembered(key_of(engine, source, record, rules))
    return (False, "not measured yet: the fit begins with that") if found is None else (found.plan == "xla", str(found))


def key_of(engine: Engine, source: Source, record: Any, rules: Any) -> str:
    """What the speed of a step depends on, as one word that is the same in another process."""
    what = {
        **on_disk.about(engine, source),
        "programs": PROGRAMS,
        "record": words(dict(record)),
        "rules": words(getattr(rules, "rules", None)),
        "schedules": sorted(engine.schedules),
    }
    return on_disk.key_of(what)


# --- measuring ------------------------------------------------------------------------------------------------------------


def _measure(run: Run, record: Any) -> Measured | None:
    """Train a few dozen steps in either form, and put everything back. None if these data leave nothing to measure: XLA met a
    number that isn't finite (finite.py)."""
    engine = run.engine
    _prepare(run, record, by_xla=False)
    outside = run.outside()
    if outside.refused or outside.python:
        what = "; ".join([*outside.refused, *["what Python functions keep"] * outside.python])
        return Measured(0.0, None, f"its step changes {what}, which can't be put back after measuring")
    with _put_back(run):
        graph = [_seconds(run, record, STEPS) for _ in range(2)][1:]  # the first call sets up
    with _put_back(run):  # what isn't finite after these steps is no fault of XLA's
        try:
            _prepare(run, record, by_xla=True)
            _seconds(run, record, 1)  # compiles
            xla = [_seconds(run, record, 2)]
            if not engine.by_xla:
                return None
            if xla[0] > max(HOPELESS * graph[0], SLOW):
                return Measured(graph[0], xla[0])
            steps = min(max(STEPS, int(CALL_SECONDS / min(graph + xla))), MOST_STEPS)
            for done in range(MORE_ROUNDS):
                if done >= ROUNDS and max(min(graph), min(xla)) > CLOSE * min(*graph, *xla):
                    break
                for by_xla, found in ((False, graph), (True, xla)):
                    engine.by_xla = by_xla
                    found.append(_seconds(run, record, steps))
                    if by_xla and not engine.by_xla:
                        return None
        except (NotByXlaError, tf.errors.OpError) as error:
            return Measured(min(graph), None, _in_words(error))
    return Measured(min(graph), min(xla))


def _in_words(error: Exception) -> str:
    """The line of an error that says what it is about; XLA's begin with where it was raised."""
    lines = str(error).splitlines()
    return next((line.strip() for line in lines if "unsupported" in line or "No registered" in line), lines[0])[:300]


def _prepare(run: Run, record: Any, by_xla: bool) -> None:
    run.engine.by_xla = by_xla
    run.engine.prepare(run.stream, record, run.rules, run.rule_state())


def _seconds(run: Run, record: Any, steps: int) -> float:
    """Seconds per step of a call that makes so many, or as many as there are full batches."""
    source: Any = run.stream.source
    stream = Stream(ArraySource(source.tensors, source.batch_size, KerasOrder(False)))  # an order that is drawn is the run's
    stream.begin_epoch()
    steps = min(steps, max(source.num_rows // source.batch_size, 1))
    started = time.perf_counter()
    chunk = run.engine.train(stream, steps, index=run.step, record=record, rules=run.rules, state=run.rule_state())
    return (time.perf_counter() - started) / chunk.steps


@contextlib.contextmanager
def _put_back(run: Run) -> Iterator[None]:
    """Every variable, table and random generator is afterwards as it was before."""
    variables = [variable for _, variable in run.variables()]
    values, random = [tf.identity(variable) for variable in variables], randomness.state()
    tables = [(table, table_state(table)) for _, table in run.outside().tables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values):
            variable.assign(value)
        for table, kept in tables:
            load_table(table, kept)
        randomness.load_state(random)


# --- remembering ----------------------------------------------------------------------------------------------------------


def remembered(key: str) -> Measured | None:
    """What was measured for this key; None if nothing was, or it can't be read."""
    found = _all().get(key)
    return None if found is None else Measured(**found)


def _all() -> dict[str, Any]:
    return on_disk.load(on_disk.cache_file())


def _remember(key: str, measured: Measured) -> None:
    on_disk.keep(on_disk.cache_file(), key, asdict(measured))
