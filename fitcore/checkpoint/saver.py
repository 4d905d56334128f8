"""Saves a run as it goes, and brings it back: what the outer loop calls between its steps."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import tensorflow as tf

from fitcore.checkpoint import callbacks, state
from fitcore.checkpoint.config import Checkpoint
from fitcore.checkpoint.fingerprint import differences, machine, versions
from fitcore.checkpoint.state import BETWEEN, FINISHED, IN_EPOCH, STEPS_DONE, WITHIN, Snapshot, Variables
from fitcore.checkpoint.store import CheckpointError, Saved, Store
from fitcore.cluster import role
from fitcore.cluster.role import PREEMPTED
from fitcore.run import Run

NICE = 10  # of the writer's thread: the training's go first, but where they take every core it still gets a tenth of one
_Order = tuple[Path | None, Snapshot]  # the folder begun for it, or None; and what to write


class Preempted(SystemExit):
    """SIGTERM or SIGINT came, and the run has saved itself if it could: the process exits with status 75."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Saver:
    """Saves one run into one folder, and knows where another process left it.

    Args:
      checkpoint: where and how often.
      fingerprint: `fingerprint.of_fit` of this fit.

    Raises:
      CheckpointError: what is there can't be gone on from, or nothing is and it must.
      OSError: the folder can't be created.
    """

    def __init__(self, checkpoint: Checkpoint, fingerprint: Mapping[str, Any]) -> None:
        self._every, self._unit = checkpoint.interval()
        self._keep = checkpoint.keep
        self._facts = {"versions": versions(), "machine": machine(), "fingerprint": fingerprint}
        self._store = Store(checkpoint.directory, role.is_chief())
        self._last = time.monotonic()
        self._writer: threading.Thread | None = None  # one for all checkpoints, made for the first
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Path | BaseException] = queue.SimpleQueue()
        self._writing = False  # whether one is being written
        self._variables: Variables | None = None
        self._newest: Path | None = None  # the newest good checkpoint
        self._saved = False  # whether what was to be written last has been
        self._told: set[str] = set()  # what was warned of already
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._process = os.getpid()
        self._validating = False
        self._steps_seen = 0
        self._checked = False  # whether what the program does is known
        self._must = checkpoint.resume == "must"
        try:
            self._found = self._find(checkpoint.resume)
        except BaseException:
            self._store.close()
            raise
        self._store.go_on_from(self._found)
        self._newest = None if self._found is None else self._found.path

    # --- where another process left the run -------------------------------------------------------------------------------

    @property
    def where(self) -> str | None:
        """Where in the outer loop the run was left, None if this is its beginning."""
        return None if self._found is None else self._found.manifest["where"]

    @property
    def epoch(self) -> int:
        """The epoch it was left in, or after."""
        assert self._found is not None
        return int(self._found.manifest["epoch"])

    @property
    def within(self) -> bool:
        """Whether it was left within an epoch."""
        return self.where in WITHIN

    @property
    def by_xla(self) -> bool:
        """Whether its steps were XLA's."""
        assert self._found is not None
        return bool(self._found.manifest["by_xla"])

    def _find(self, resume: str) -> Saved | None:
        paths = self._store.checkpoints()
        if resume == "never" and paths:
            raise CheckpointError(
                f'`checkpoint`: {self._store.directory} holds checkpoints, and resume="never". Nothing is overwritten: name '
                "another folder, or delete it."
            )
        found, damaged = None, None
        for path in paths:
            try:
                found = self._store.read(path)
                break
            except CheckpointError as error:
                if resume == "must":
                    raise
                damaged = damaged or error
        if found is None:
            if damaged is not None:
                raise CheckpointError(f"`checkpoint`: none in {self._store.directory} is good. {damaged}") from damaged
            if resume == "must":
                raise CheckpointError(f'`checkpoint`: {self._store.directory} holds none, and resume="must".')
            return None
        if damaged is not None:
            warnings.warn(f"{damaged} Going on from {found.path}, the newest good one.", stacklevel=4)
        self._check(found, resume)
        return found

    def _check(self, found: Saved, resume: str) -> None:
        other = [each for name in ("versions", "fingerprint") for each in differences(found.manifest[name], self._facts[name])]
        if other and resume != "force":
            raise CheckpointError(
                f"`checkpoint`: {found.path} was saved by another run: {'; '.join(other)}. To go on from it all the same, "
                'with other bits perhaps, give resume="force".'
            )
        other += differences(found.manifest["machine"], self._facts["machine"])
        if other:
            warnings.warn(f"{found.path}: {'; '.join(other)}. The last bits may differ.", stacklevel=5)

    def appending(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Within it callbacks may begin without overwriting what another process wrote."""
        return contextlib.nullcontext() if self._found is None else callbacks.appending(run.callbacks.callbacks)

    def put_back(self, run: Run, record: Any) -> None:
        """Give the run the state it was left in."""
        assert self._found is not None
        state.trace_again(run, self._found)
        run.engine.prepare(run.stream, record, run.rules, run.rule_state())
        self._check_program(run)
        otherwise = state.put_back(run, self._found)
        self._say_not_exact([f"`model`, `loss`, `callbacks`: {each}" for each in otherwise])
        self._steps_seen = run.curve.length
        self._found = None  # its arrays needn't be held

    # --- between the steps ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Saver:
        if threading.current_thread() is threading.main_thread():
            heard = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) != signal.SIG_IGN]
            self._handlers = {each: signal.signal(each, self._on_signal) for each in heard}  # nohup's stay ignored
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        try:
            self._wait()
        finally:
            if self._writer is not None:
                self._orders.put(None)
                self._writer.join()
            self._store.close()
        if self._signal is not None and error[0] is None:  # it came while a recorded end was put back
            raise Preempted

    def begin(self, run: Run, record: Any) -> None:
        """Say what of this run can't be saved. What its program does is found out once that has been traced.

        Raises:
          CheckpointError: something can't, and resume="must"; the workers of a cluster found different checkpoints.
        """
        agreement = run.engine.agreement
        place = 0 if self._found is None else int(self._found.path.name.partition("-")[0])
        if agreement is not None and not agreement.alike(place):
            raise CheckpointError(
                f"`checkpoint`: the workers find different checkpoints in {self._store.directory}; this one "
                f"{self._found and self._found.path}. The folder must be one that all of them share."
            )
        data = {"x": run.stream.source.not_exact(), "validation_data": run.validate and run.validate.not_exact()}
        reasons = [f"`{name}`: {reason}" for name, reason in data.items() if reason]
        for name in callbacks.forgotten(run.callbacks.callbacks):
            reasons.append(
                f"`callbacks`: {name} holds more than numbers, text, arrays, lists and dicts, and has no methods `state` and "
                "`load_state`, so that is not saved"
            )
        self._say_not_exact(reasons)

    def before_first_call(self, run: Run) -> None:
        """The first compiled call is next: trace it, and look at what it does. For one that is resumed this has been done.

        Raises:
          CheckpointError: it changes what can't be saved.
        """
        if not self._checked:
            if not run.engine.steps_op_by_op:  # there a trace would show nothing, and optimizers would build themselves in it
                run.engine.prepare(run.stream, run.record, run.rules, run.rule_state())
            self._check_program(run)

    def _check_program(self, run: Run) -> None:
        self._checked = True
        outside = run.outside()
        if outside.refused:
            raise CheckpointError(
                f"`checkpoint`: the training step changes {'; '.join(outside.refused)}. That can't be saved, so a resumed run "
                "would train otherwise. Keep it in a tf.Variable, or train without `checkpoint`."
            )
        kinds = run.engine.random_ops(run.stream, run.record, run.rules)
        reasons = [f"`model`: the state of {', '.join(kinds)} in its step is not saved; that of keras.random's is"] * bool(
            kinds
        )
        if outside.python:
            reasons.append("`model`: what Python functions in its step (tf.py_function, tf.numpy_function) keep is not saved")
        if not outside.whole:
            reasons.append("`model`, `callbacks`: they hold too many objects to find all variables among them")
        self._say_not_exact(reasons)

    def _say_not_exact(self, reasons: list[str]) -> None:
        if reasons and self._must:
            raise CheckpointError(f'`checkpoint`: resume="must" can\'t be kept. {"; ".join(reasons)}.')
        for reason in reasons:
            warnings.warn(f"A resumed run may differ from one that was never killed. {reason}.", stacklevel=5)

    def steps_until_due(self, done: int) -> int | None:
        """Steps to the next one after which to save; None if steps don't say."""
        return self._every - done % self._every if self._unit == "step" else None

    def after_call(self, run: Run) -> None:
        """A compiled call is back, in mid-epoch. Saves if it is time.

        Raises:
          Preempted: a signal came.
        """
        due = self._steps_are_over(run) if self._unit == "step" else self._seconds_are_over()
        self._save_if(due, run, IN_EPOCH)

    def steps_done(self, run: Run) -> None:
        """An epoch's steps have run; what comes next is its end, perhaps with a validation.

        Raises:
          Preempted: a signal came.
        """
        self._save_if(False, run, STEPS_DONE)

    @contextlib.contextmanager
    def validation(self, run: Run) -> Iterator[None]:
        """Around a validation, which may take long: a signal ends it at once, and the state before it is saved.

        Raises:
          Preempted: a signal came.
        """
        if run.engine.agreement is not None:  # workers wait for each other in it: none can leave by itself
            yield
            return
        self._wait()
        before = self._take(run, STEPS_DONE)
        self._validating = True
        try:
            yield
        except Preempted:
            self._write(run, before)
            self._leave(run)
        finally:
            self._validating = False

    def after_epoch(self, run: Run) -> None:
        """An epoch has ended. Saves if it is time.

        Raises:
          Preempted: a signal came.
        """
        due = (run.epoch + 1) % self._every == 0 if self._unit == "epoch" else self._seconds_are_over()
        self._save_if(due, run, BETWEEN)

    def finished(self, run: Run) -> None:
        """Training has ended. Saves, and waits until that is done.

        Raises:
          Preempted: a signal came.
        """
        self._save_if(True, run, FINISHED)
        self._wait()

    # --- how --------------------------------------------------------------------------------------------------------------

    def _save_if(self, due: bool, run: Run, where: str) -> None:
        if run.engine.agreement is not None:  # a signal or the clock of any worker is all workers'
            signalled, due = run.engine.agreement.any(self._signal is not None, due)
            self._signal = self._signal or (signal.SIGTERM if signalled else None)
        if self._signal is not None:
            self._save(run, where)
            self._leave(run)
        elif due:
            self._save(run, where)

    def _steps_are_over(self, run: Run) -> bool:
        """Whether as many steps have run since it was asked last; not only at them, since an execution must be over too."""
        before, self._steps_seen = self._steps_seen, run.curve.length
        return before // self._every < self._steps_seen // self._every

    def _seconds_are_over(self) -> bool:
        return self._unit == "second" and time.monotonic() - self._last >= self._every

    def _save(self, run: Run, where: str) -> None:
        self._wait()  # the one before; so there is never more than one copy of the state
        self._write(run, self._take(run, where))

    def _take(self, run: Run, where: str) -> Snapshot:
        if self._variables is None or not self._variables.are_those_of(run):
            self._variables = Variables(run)
        return state.take(run, where, self._store.rows, self._variables)

    def _write(self, run: Run, snapshot: Snapshot) -> None:
        """Write it in a thread of its own. What can't be written is said once; the training goes on."""
        self._wait()
        self._last, self._saved = time.monotonic(), not self._store.writes
        if not self._store.writes:
            return
        try:
            folder = self._save_iterator(run)
        except (OSError, tf.errors.OpError) as error:
            self._tell_failure(error)
            return

        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="fitcore checkpoint")
            self._writer.start()
        self._writing = True
        self._orders.put((folder, snapshot))

    def _write_all(self) -> None:
        """The writer's: what is ordered, until there is nothing more to come."""
        if sys.platform == "linux":  # where each thread has a niceness of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while (order := self._orders.get()) is not None:
            time.sleep(0.005)  # let the training go back into its compiled call first, which then leaves Python to this thread
            done = self._written(*order)
            order = None  # what it holds needn't be held
            self._done.put(done)

    def _written(self, folder: Path | None, snapshot: Snapshot) -> Path | BaseException:
        """The checkpoint, or why it can't be written."""
        facts = {**snapshot.facts, **self._facts, "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        try:
            return self._store.write(folder, snapshot.arrays, snapshot.host, facts, snapshot.rows, self._keep)
        except BaseException as error:  # the training's thread tells it, or ends with it
            return error

    def _save_iterator(self, run: Run) -> Path | None:
        """Begin the next checkpoint's folder with the state of the data's iterator, if that is to be saved."""
        if not run.stream.source.has_state or run.stream.feed is None:
            return None
        folder = self._store.new()
        try:
            tf.train.Checkpoint(iterator=run.stream.feed).write(str(folder / "data"))
        except tf.errors.FailedPreconditionError as error:  # a stateful function somewhere in it
            for part in folder.glob("data*"):
                part.unlink()
            self._tell(
                "The place in `x` is saved as a number, since TensorFlow can't save its iterator. A resumed run reads the pass "
                f"again from its start and drops what was used. TensorFlow says: {str(error.message)[:200]}"
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _wait(self) -> None:
        """Until the one that is being written has been, if there is one."""
        if not self._writing:
            return
        done = self._done.get()
        self._writing = False
        if isinstance(done, Path):
            self._newest, self._saved = done, True
        elif isinstance(done, (OSError, tf.errors.OpError)):
            self._tell_failure(done)
        else:
            raise done

    def _tell_failure(self, error: BaseException) -> None:
        words = str(error) or type(error).__name__
        if "failure" not in self._told:
            self._told.add("failure")
            warnings.warn(
                f"A checkpoint can't be written to {self._store.directory}: {words}. Training goes on, the checkpoints there "
                "are as they were, and it is tried again each time.",
                stacklevel=2,
            )

    def _tell(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            warnings.warn(words, stacklevel=2)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker, which inherited this: what would have been without it
            for each, handler in self._handlers.items():
                signal.signal(each, handler)
            os.kill(os.getpid(), number)
            return
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
        self._signal = number
        if self._validating:
            raise Preempted

    def _leave(self, run: Run) -> None:
        self._wait()
        assert self._signal is not None
        name = signal.Signals(self._signal).name
        if not self._store.writes:
            what = f"left after step {run.step}, together with the chief, which saves."
        elif self._saved:
            what = f"saved after step {run.step} in {self._store.directory}. The same command goes on from there."
        elif self._newest is not None:
            what = f"the state after step {run.step} can't be saved. The same command goes on from {self._newest}."
        else:
            what = f"the state after step {run.step} can't be saved. The same command begins anew."
        print(f"{name}: {what}", file=sys.stderr)
        raise Preempted
