"""Scripts that are killed and run again: `python -m fitcore --checkpoint_dir`, and what it is made of."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from models import data, linear, noisy, state

import fitcore
from fitcore.checkpoint import Calls, Folders

REPEATED = """
import json, os, random, signal, sys
import keras, numpy as np
from keras import callbacks, layers

class DieAt(callbacks.Callback):  # "9 2" sends signal 9 after two steps of the fit under way
    def on_train_batch_end(self, batch, logs=None):
        number, at, fit = map(int, os.environ.get("DIE", "0 0 0").split())
        if number and (len(found), batch) == (fit, at):
            os.kill(os.getpid(), number)

keras.utils.set_random_seed(5)
x, y = np.random.randn(60, 3).astype("float32"), np.random.randn(60, 1).astype("float32")
model = keras.Sequential([layers.Dense(8, "relu"), layers.Dropout(0.3), layers.Dense(1)])
model.compile("adam", "mse")
stopping = callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True)
found = []
for _ in range(6):
    history = model.fit(
        x[:40], y[:40], batch_size=4, epochs=4, validation_data=(x[40:], y[40:]), callbacks=[stopping, DieAt()], verbose=0
    )
    drawn = [random.random(), float(np.random.rand()), float(keras.random.uniform([]))]
    on_batch = float(model.train_on_batch(x[:8], y[:8]))
    found.append([history.history, history.epoch, stopping.wait, float(stopping.best), model.stop_training, drawn, on_batch])
    found[-1].append(model.evaluate(x, y, verbose=0))
state = [variable.numpy().tobytes().hex() for variable in [*model.variables, *model.optimizer.variables]]
json.dump([found, state], open(sys.argv[1], "w"))
"""


@pytest.mark.slow
def test_a_killed_script_ends_in_the_bits_of_plain_keras(tmp_path: Path) -> None:
    script, checkpoints = tmp_path / "script.py", tmp_path / "checkpoints"
    script.write_text(REPEATED)

    def start(name: str, *options: object, die: str = "0 0 0") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, options), str(script), str(tmp_path / name)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "DIE": die}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    surviving = ("-m", "fitcore", "--checkpoint_dir", checkpoints, "--checkpoint_every=3 steps")
    assert start("plain.json").returncode == 0
    assert start("routed.json", *surviving, die=f"{signal.SIGKILL:d} 8 2").returncode == -signal.SIGKILL
    preempted = start("routed.json", *surviving, die=f"{signal.SIGTERM:d} 1 4")
    assert preempted.returncode == 75, preempted.stderr
    assert "2 of the fits were answered from their recorded ends" in preempted.stderr
    assert "SIGTERM: saved after step" in preempted.stderr
    ended = start("routed.json", *surviving)
    assert ended.returncode == 0, ended.stderr
    assert "4 of the fits were answered from their recorded ends" in ended.stderr
    assert json.loads((tmp_path / "routed.json").read_text()) == json.loads((tmp_path / "plain.json").read_text())
    for call in range(1, 7):
        assert len([*(checkpoints / f"call-{call:04d}").glob("*-step-*")]) == 1


class Cut(Exception):
    """The process ends here, as far as the script can tell."""


class CutAt(fitcore.Hook):
    when = fitcore.EVERY_STEP

    def __init__(self, step: int | None) -> None:
        self._step = step

    def after_steps(self, view: fitcore.View) -> None:
        if view.step == self._step:
            raise Cut


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    yield
    fitcore.unpatch_keras()


def start(
    script: Callable[[], Any], directory: Path | None, cut: int | None = None, every: str = "2 steps", resume: str = "auto"
) -> Any:
    """Run a script as in a new process, up to a step of the fit that makes it; returns what it found, None if it was cut."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(99)
    folders = None if directory is None else Folders(directory, every, resume)
    calls = None if folders is None else Calls(folders)
    try:
        with fitcore.patch_keras(hooks=lambda model: [CutAt(cut)], checkpoint=calls and calls.call):
            return script()
    except Cut:
        return None
    finally:
        if folders is not None:
            folders.close()


def three_fits(epochs: int = 2, rows: int = 20, rate: float = 0.3, loss: str = "mse", scale: float = 1.0) -> Callable[[], Any]:
    """A script of three fits, whose last one can be edited."""

    def script() -> Any:
        x, y = data(20)
        model = noisy()
        draws = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: np.random.rand())]
        found = [model.fit(x, y, batch_size=4, epochs=2, callbacks=draws, verbose=0).history for _ in range(2)]
        found.append(np.random.rand())
        model.layers[2].rate = rate
        model.compile(model.optimizer, loss, metrics=["mae"])
        model.layers[0].kernel.assign(scale * model.layers[0].kernel)
        history = model.fit(x[:rows], y[:rows], batch_size=4, epochs=epochs, verbose=0)
        return found, history.history, {name: values.tobytes() for name, values in history.steps.items()}, state(model)

    return script


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    return start(three_fits(), None)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of the script after a cut in its third fit."""
    directory = tmp_path_factory.mktemp("cut")
    assert start(three_fits(), directory, 25) is None
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5, 10, 11, 21, 30])
def test_wherever_it_is_cut_it_ends_alike(step: int, undisturbed: Any, tmp_path: Path) -> None:
    assert start(three_fits(), tmp_path, step) is None
    assert start(three_fits(), tmp_path) == undisturbed
    assert sorted(path.name for path in tmp_path.glob("call-*")) == ["call-0001", "call-0002", "call-0003"]
    assert all(len([*call.glob("*-step-*")]) == 1 for call in tmp_path.glob("call-*"))


def test_it_ends_alike_and_then_all_is_answered(cut: Path, undisturbed: Any, tmp_path: Path) -> None:
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    assert start(three_fits(), tmp_path) == undisturbed
    assert start(three_fits(), tmp_path, 1) == undisturbed  # no step is made any more


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        ({"epochs": 3}, "`epochs` was 2, is 3"),
        ({"rows": 16}, r"`data` was .*\[20, 3\].* is .*\[16, 3\]"),
        ({"rate": 0.5}, "`model.2.rate` was 0.3, is 0.5"),
        ({"loss": "mae"}, "`loss` was 'mse', is 'mae'"),
    ],
)
def test_an_edited_script_is_stopped_at_the_call_that_differs(
    cut: Path, tmp_path: Path, edited: dict[str, Any], said: str
) -> None:
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    with pytest.raises(fitcore.CheckpointError, match=f"^Call 3 of fit, of Sequential, can't be followed: .*{said}") as error:
        start(three_fits(**edited), tmp_path)
    assert f"delete {tmp_path / 'call-0003'} and" in str(error.value)
    if "epochs" in edited:
        shutil.rmtree(tmp_path / "call-0003")
        assert start(three_fits(**edited), tmp_path) == start(three_fits(**edited), None)


def test_what_a_call_begins_with_is_compared(cut: Path, undisturbed: Any, tmp_path: Path) -> None:
    """Weights and random numbers: with an error where nothing of the call was saved yet, else with a warning."""
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="Call 3 .* begins otherwise than before: `weights and optimizer` was"):
        assert start(three_fits(scale=2.0), tmp_path) == undisturbed
    for saved in (tmp_path / "call-0003").glob("*-step-*"):
        shutil.rmtree(saved)
    with pytest.raises(fitcore.CheckpointError, match=r"^Call 3 .*`weights and optimizer` was"):
        start(three_fits(scale=2.0), tmp_path)


def test_a_script_without_a_seed_begins_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script() -> Any:
        x = np.random.rand(12, 3)
        model = linear(optimizer="sgd")
        model.fit(x, x[:, :1], batch_size=4, shuffle=False, verbose=0)
        return x.tobytes(), state(model), np.random.rand()

    monkeypatch.setattr(keras.utils, "set_random_seed", lambda _: np.random.seed(next(seeds)))
    seeds = itertools.count()  # each process begins with other numbers
    first = start(script, tmp_path / "a")
    assert start(script, None) != first
    assert start(script, tmp_path / "a") == first


class Noting(keras.callbacks.Callback):
    """A callback as scripts have them: it knows nothing of being saved."""

    def __init__(self, shared: list[float]) -> None:
        super().__init__()
        self.losses = shared

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])


def test_callbacks_of_the_script_and_repeated_fits(tmp_path: Path) -> None:
    def script() -> Any:
        x, y = data(12)
        model = linear()
        losses: list[float] = []
        stopping, noting = keras.callbacks.EarlyStopping("loss", patience=1), Noting(losses)
        found = []
        for _ in range(4):
            history = model.fit(x, y, batch_size=4, epochs=2, callbacks=[stopping, noting], verbose=0)
            found.append((history.history, history.epoch, history.params, stopping.best, model.history is history))
        traces.append(history.account["traces"])
        return found, losses, state(model), vars(model)["_fitcore_engine"].traces

    traces: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = start(script, None)
        assert start(script, tmp_path, 22) is None
        assert start(script, tmp_path) == expected
        assert start(script, tmp_path) == expected
    assert len(expected[1]) == 4 * 6
    assert expected[-1] == 1  # one program, for answered calls too
    assert traces == [0, 0, 0]


class OwnLoop(keras.Sequential):
    def make_train_function(self, force: bool = False) -> Any:
        return super().make_train_function(force)


def test_what_keras_runs_is_run_again_and_keeps_its_number(tmp_path: Path) -> None:
    def script(kind: Any = OwnLoop) -> Any:
        x, y = data(12)
        first, second = linear(), kind([keras.Input((3,)), keras.layers.Dense(1)])
        second.compile("adam", "mse")
        return [model.fit(x, y, batch_size=4, verbose=0).history for model in (first, second, first)], state(second)

    with pytest.warns(UserWarning, match="Keras runs `OwnLoop.fit` itself"):
        expected = start(script, None)
    with pytest.warns(UserWarning, match="Call 2 of fit, of OwnLoop, is not saved, since Keras runs it"):
        assert start(script, tmp_path, 5) is None
    with pytest.warns(UserWarning, match="Call 2 of fit"):
        assert start(script, tmp_path) == expected
    assert not [*(tmp_path / "call-0002").glob("*-step-*")]
    with pytest.raises(fitcore.CheckpointError, match=r"Call 2 of fit, of Sequential, .*`run by` was 'Keras', is 'fitcore'"):
        start(lambda: script(keras.Sequential), tmp_path)


def test_calls_without_a_fixed_order_are_refused(tmp_path: Path) -> None:
    x, y = data(8)

    def nested() -> None:
        other = linear()
        again = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: other.fit(x, y, verbose=0))
        linear().fit(x, y, callbacks=[again], verbose=0)

    def threaded() -> None:
        thread = threading.Thread(target=caught)
        thread.start()
        thread.join()

    def caught() -> None:
        with pytest.raises(RuntimeError, match=r"in another thread or process .* without --checkpoint_dir"):
            linear().fit(x, y, verbose=0)

    with pytest.raises(RuntimeError, match=r"`Sequential.fit` was called within call 1 of fit.* without --checkpoint_dir"):
        start(nested, tmp_path / "nested")
    start(threaded, tmp_path / "threaded")


def test_must_never_and_one_process_at_a_time(tmp_path: Path) -> None:
    def script() -> Any:
        x, y = data(8)
        model = linear()
        return [model.fit(x, y, batch_size=4, verbose=0).history for _ in range(2)]

    with pytest.raises(fitcore.CheckpointError, match=r'resume="must": .* holds no checkpoint'):
        start(script, tmp_path, resume="must")
    assert start(script, tmp_path, 3, resume="never") is None
    with pytest.raises(fitcore.CheckpointError, match=r'resume="never": .* holds checkpoints'):
        start(script, tmp_path, resume="never")
    folders = Folders(tmp_path, "1 epoch")
    with pytest.raises(fitcore.CheckpointError, match="trains in"):
        start(script, tmp_path)
    folders.close()
    assert start(script, tmp_path, resume="must") == start(script, None)  # though nothing of the second call was saved
