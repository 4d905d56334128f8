"""What a run survives from outside: signals at any place, a second process, worker processes that die, SIGKILL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf

import fitcore
from fitcore.checkpoint import CheckpointInUseError

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
NOTHING: Mapping[int, Any] = {}


def send(number: int = signal.SIGTERM) -> None:
    """Send this process a signal; its handler runs before the next line."""
    os.kill(os.getpid(), number)


class At(fitcore.Hook):
    """Does something after given steps: by step, a function."""

    when = fitcore.EVERY_STEP

    def __init__(self, deeds: Mapping[int, Callable[[], Any]]) -> None:
        self.deeds, self.steps, self.ended = deeds, 0, False

    def after_steps(self, view: fitcore.View) -> None:
        self.steps = view.step
        self.deeds.get(view.step, lambda: None)()

    def end(self, view: fitcore.View) -> None:
        self.ended = True


class When(keras.callbacks.Callback):
    """Does something once, when Keras calls one of its methods the nth time."""

    def __init__(self, method: str = "", n: int = 1, deed: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.left, self.after = n, 0
        if method:

            def called(*arguments: Any, **named: Any) -> None:
                self.left -= 1
                self.after += self.left < 0
                if self.left == 0:
                    deed()

            setattr(self, method, called)

    def state(self) -> None: ...

    def load_state(self, state: None) -> None: ...


def train(directory: Path | None, deeds: Mapping[int, Any] = NOTHING, callback: Any = None, **more: Any) -> Any:
    """20 rows in 5 batches, 3 epochs, each validated; (bytes of all variables, History, bytes of the curves)."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1234)
    model = more.pop("model", None) or models.linear()
    given: dict[str, Any] = {"epochs": 3, "verbose": 0, "validation_data": models.data(20, seed=1), "batch_size": 4, **more}
    x, y = given.pop("data", models.data())
    hook = given.pop("hook", None) or At(deeds)
    checkpoint = None if directory is None else fitcore.Checkpoint(directory, every="2 steps")
    history = fitcore.fit(model, x, y, hooks=[hook], callbacks=[callback or When()], checkpoint=checkpoint, **given)
    return models.state(model), history.history, {name: values.tobytes() for name, values in history.steps.items()}


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    return train(None)


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Any:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def preempted(directory: Path, **arguments: Any) -> None:
    with pytest.raises(fitcore.Preempted) as caught:
        train(directory, **arguments)
    assert caught.value.code == 75


@BOTH
def test_a_signal_in_mid_epoch_saves_that_very_step(number: int, tmp_path: Path, undisturbed: Any, capfd: Any) -> None:
    hook = At({7: lambda: send(number)})
    preempted(tmp_path, hook=hook)
    assert f"{signal.Signals(number).name}: saved after step 7" in capfd.readouterr().err
    assert (hook.steps, hook.ended) == (7, True)
    assert not list(tmp_path.glob(".writing-*"))
    again = At({})
    assert train(tmp_path, hook=again) == undisturbed


@BOTH
def test_a_signal_ends_a_validation_at_once(number: int, tmp_path: Path, undisturbed: Any) -> None:
    callback = When("on_test_batch_begin", 8, lambda: send(number))  # the third batch of the second of three validations
    preempted(tmp_path, callback=callback)
    assert callback.after == 0
    assert train(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("method", "n"), [("on_train_begin", 1), ("on_epoch_begin", 2), ("on_epoch_end", 3), ("on_train_end", 1)]
)
def test_a_signal_between_epochs_and_at_the_ends_is_heard(method: str, n: int, tmp_path: Path, undisturbed: Any) -> None:
    preempted(tmp_path, callback=When(method, n, send))
    assert train(tmp_path) == undisturbed


def test_a_signal_while_the_program_is_traced_waits_for_its_first_call(tmp_path: Path) -> None:
    class Sends(keras.layers.Layer):
        tracings = 0

        def call(self, inputs: Any) -> Any:
            Sends.tracings += 1
            if Sends.tracings == armed:
                send()
            return inputs

    def model() -> keras.Model:
        model = keras.Sequential([keras.Input((3,)), Sends(), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    def run(directory: Path | None) -> Any:
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        return train(directory, model=model())

    armed = -1
    plain = run(None)
    Sends.tracings, armed = 0, 2  # the first: when the model is built
    with pytest.raises(fitcore.Preempted):
        run(tmp_path)
    armed = -1
    assert run(tmp_path) == plain


def test_a_signal_while_a_checkpoint_is_written(tmp_path: Path, undisturbed: Any) -> None:
    def watch() -> None:
        while not list(tmp_path.glob(".writing-*")):
            pass
        send()

    watcher = threading.Thread(target=watch)
    watcher.start()
    preempted(tmp_path, deeds=dict.fromkeys(range(1, 15), lambda: time.sleep(0.1)))
    watcher.join()
    assert not list(tmp_path.glob(".writing-*"))
    assert train(tmp_path) == undisturbed


def test_a_preempted_run_that_cant_save_itself_says_so(tmp_path: Path, undisturbed: Any, capfd: Any) -> None:
    def no_room() -> None:
        (tmp_path / ".writing-0000004").write_text("in the way")  # of the fourth checkpoint
        send()

    with pytest.warns(UserWarning, match="A checkpoint can't be written"):
        preempted(tmp_path, deeds={7: no_room})
    (tmp_path / ".writing-0000004").unlink()
    words = capfd.readouterr().err
    assert "the state after step 7 can't be saved. The same command goes on from" in words
    assert "step-6" in words
    assert train(tmp_path) == undisturbed


def test_without_a_checkpoint_signals_do_what_they_did() -> None:
    handlers = []
    with pytest.raises(KeyboardInterrupt):
        train(None, {3: lambda: handlers.append(signal.getsignal(signal.SIGTERM)), 4: lambda: send(signal.SIGINT)})
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_a_forked_worker_dies_of_a_signal_as_if_there_were_no_checkpoint(tmp_path: Path) -> None:
    statuses = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            send()
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    train(tmp_path, {3: fork})
    assert statuses == [-signal.SIGTERM]


# --- worker processes -------------------------------------------------------------------------------------------------------


class Rows(keras.utils.PyDataset):
    """20 rows in batches of 4, made by two worker processes which take their time, another for an epoch's last batch."""

    def __init__(self, seconds: float = 0.1, last: float | None = None) -> None:
        super().__init__(workers=2, use_multiprocessing=True)
        self.x, self.y = models.data()
        self.main, self.seconds = os.getpid(), [seconds] * 4 + [last or seconds]

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if os.getpid() != self.main:
            time.sleep(self.seconds[index])
        return self.x[4 * index : 4 * index + 4], self.y[4 * index : 4 * index + 4]


WORKERS = {"batch_size": None, "validation_data": None}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_worker_that_dies_is_an_error_within_seconds_and_the_run_can_go_on(number: int, tmp_path: Path) -> None:
    died: list[float] = []

    def kill() -> None:
        workers = multiprocessing.active_children()
        os.kill(workers[0].pid or 0, number)
        died.append(time.monotonic())

    with pytest.raises(tf.errors.OpError, match=r"A worker process of a PyDataset .* died"):
        train(tmp_path, {6: kill}, data=(Rows(last=2), None), **WORKERS)  # not made yet when a worker is killed
    assert time.monotonic() - died[0] < 10
    assert train(tmp_path, data=(Rows(), None), **WORKERS) == train(None, data=(Rows(), None), **WORKERS)


def test_ctrl_c_which_reaches_the_workers_too_lets_them_finish_for_the_run_to_save_itself(tmp_path: Path) -> None:
    def interrupt() -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGINT)

    preempted(tmp_path, deeds={6: interrupt, 8: lambda: send(signal.SIGINT)}, data=(Rows(), None), **WORKERS)
    assert train(tmp_path, data=(Rows(), None), **WORKERS) == train(None, data=(Rows(), None), **WORKERS)


# --- processes of their own -------------------------------------------------------------------------------------------------


def start(way: str, directory: Path) -> subprocess.Popen[str]:
    """This file as a process: trains as `way` says, and prints a line where it is to be disturbed."""
    paths = [*sys.path, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, __file__, way, str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def fork_and_wait() -> None:
    """Fork a worker, as those of a PyDataset are, print its process id, and wait to be killed."""
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    print(worker.pid, flush=True)
    worker.join()


DEEDS: dict[str, Callable[[], Any]] = {"once": send, "twice": lambda: (send(), send()), "wait": fork_and_wait}


@pytest.mark.slow
def test_status_75_after_one_signal_and_death_by_the_second(tmp_path: Path, undisturbed: Any) -> None:
    for way, status in {"once": 75, "twice": -signal.SIGTERM}.items():
        process = start(way, tmp_path / way)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == status, errors
        assert train(tmp_path / way) == undisturbed


@pytest.mark.slow
def test_a_second_process_is_refused_and_after_sigkill_let_in_while_workers_live(tmp_path: Path, undisturbed: Any) -> None:
    process = start("wait", tmp_path)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(CheckpointInUseError, match=f"another process .pid {process.pid}. trains in"):
            train(tmp_path)
        process.kill()
        process.wait()
        os.kill(worker, 0)  # raises if it is dead
        assert train(tmp_path) == undisturbed
        os.kill(worker, 0)
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)


if __name__ == "__main__":
    train(Path(sys.argv[2]), {7: DEEDS[sys.argv[1]]})
