"""Scripts as people write them, under `python -m fitcore`: the bits of plain Keras, also with noise and after a kill.

The scripts are in scripts/examples. They know nothing of fitcore. Quick tests run them in this process by the command's own
`main`. Slow ones run them in processes of their own, with oneDNN's other setting, and kill them by a signal.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest
import run_examples
from onednn_setting import other_setting
from run_examples import End
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fitcore
import fitcore.__main__
from fitcore.checkpoint import Folders

FITS = {  # by script: how many calls of fit; which of them is cut, and after how many of its steps
    "active_learning": (6, 4, 3),
    "diffusion": (1, 1, 7),
    "distillation": (3, 2, 7),
    "gan": (1, 1, 7),
    "momentum_contrast": (1, 1, 9),
    "text_classification": (1, 1, 11),
    "transfer_learning": (3, 3, 7),
    "translation": (1, 1, 7),
    "tuner_search": (7, 4, 10),
    "vae": (1, 1, 9),
}
OWN_STEP = {"diffusion": "Diffusion", "distillation": "Distiller", "gan": "GAN", "momentum_contrast": "MomentumContrast"}
LONGER = {"distillation", "text_classification", "transfer_learning", "translation", "tuner_search"}
by_name = pytest.mark.parametrize("name", sorted(FITS))
by_name_longer_slow = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONGER)) for name in sorted(FITS)]
)


class Cut(BaseException):
    """The process ends here, as far as the script can tell."""


class Cutting(fitcore.Hook):
    """Cuts a fit. Compiled calls end there, and nowhere else for its sake."""

    def __init__(self, at: int | None) -> None:
        self.when = fitcore.NEVER if at is None else fitcore.When(steps=at, epochs=False)

    def after_steps(self, view: fitcore.View) -> None:
        raise Cut


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command leaves Keras patched, and `sys` as the script should see it."""
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    fitcore.unpatch_keras()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By script: how it ends under plain Keras."""
    folder = tmp_path_factory.mktemp("undisturbed")

    @functools.cache
    def end(name: str) -> End:
        before = os.getcwd()
        os.chdir(folder)
        try:
            return run_examples.end_of(name)
        finally:
            os.chdir(before)

    return end


def command(name: str, folder: Path, *options: object) -> End:
    """How a script ends under `python -m fitcore`, run in this folder in this process."""
    held: list[Folders] = []

    def noted(*arguments: Any) -> Folders:
        held.append(Folders(*arguments))
        return held[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(fitcore.__main__, "Folders", noted)
        try:
            fitcore.__main__.main([*map(str, options), run_examples.__file__, "end.json", name])
        finally:
            fitcore.unpatch_keras()
            for folders in held:  # the end of a process closes them
                folders.close()
    return json.loads((folder / "end.json").read_text())[name]


def assert_same(end: End, expected: End) -> None:
    """To the last bit, by names of what differs."""
    assert "error" not in expected, expected["error"]
    assert "error" not in end, end["error"]
    assert list(end["variables"]) == list(expected["variables"])
    differing = [path for path, value in expected["variables"].items() if list(value) != list(end["variables"][path])]
    assert not differing
    assert end["printed"] == expected["printed"]


def test_the_scripts_know_nothing_of_fitcore() -> None:
    assert sorted(FITS) == run_examples.NAMES
    for name in FITS:
        assert "fitcore" not in (run_examples.EXAMPLES / f"{name}.py").read_text()


@by_name
def test_the_bits_of_keras(name: str, undisturbed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = command(name, tmp_path)
    assert_account(name, capsys.readouterr().err)
    assert_same(end, undisturbed(name))


def assert_account(name: str, written: str) -> None:
    assert re.search(rf"fitcore ran {FITS[name][0]} fits of [1-9]\d* steps", written), written
    assert "Keras ran" not in written  # no fallback


@by_name
def test_noise_changes_no_bit(
    name: str, undisturbed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Where a class has a train_step of its own, what is inside it can't be measured: a message says that for the class."""
    end = command(name, tmp_path, "--logdir", tmp_path / "logs", "--noise")
    assert_account(name, capsys.readouterr().err)
    said = [str(each.message) for each in recwarn if "--noise" in str(each.message)]
    assert len(said) == (name in OWN_STEP), said
    if said:
        assert re.match(rf"--noise: the gradient noise of `{OWN_STEP[name]}` is not measured", said[0])
    assert_same(end, undisturbed(name))
    measured = [folder for folder in (tmp_path / "logs").iterdir() if noise_points(folder)]
    assert bool(measured) == (name not in OWN_STEP or FITS[name][0] > 1)
    assert not any(OWN_STEP.get(name, "other").lower() in folder.name.replace("_", "") for folder in measured)


def noise_points(folder: Path) -> int:
    """How many values of the noise's trace a model's event files hold."""
    events = EventAccumulator(str(folder / "train")).Reload()
    return len(events.Tensors("noise/trace")) if "noise/trace" in events.Tags()["tensors"] else 0


@by_name_longer_slow
def test_cut_and_started_again(
    name: str, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits, number, at = FITS[name]
    begun: list[Any] = []

    def cutting(hooks: Any, noise: Any, checkpoint: Any, check: Any) -> fitcore.Patch:
        begun.clear()
        return fitcore.patch_keras(hooks_of, noise, checkpoint, check)

    def hooks_of(model: keras.Model) -> list[fitcore.Hook]:
        begun.append(model)
        return [Cutting(at if len(begun) == number and not been_cut else None)]

    been_cut = False
    monkeypatch.setattr(fitcore.__main__, "patch_keras", cutting)
    surviving = ("--checkpoint_dir", tmp_path / "checkpoints", "--checkpoint_every=2 steps")
    with pytest.raises(Cut):
        command(name, tmp_path, *surviving)
    assert [*(tmp_path / "checkpoints" / f"call-{number:04d}").glob("*-step-*")], "nothing was saved before the cut"
    capsys.readouterr()

    been_cut = True
    end = command(name, tmp_path, *surviving)
    written = capsys.readouterr().err
    assert_account(name, written)
    assert (f"{number - 1} of the fits were answered from their recorded ends" in written) == (number > 1)
    assert_same(end, undisturbed(name))
    assert len(begun) == fits


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    """How each script ends under plain `python` with oneDNN's other setting: one after the other, in one process."""
    folder = tmp_path_factory.mktemp("otherwise")
    process(run_examples.NAMES, folder)
    return json.loads((folder / "end.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--logdir", "logs", "--noise"]], ids=["plain", "noise"])
def test_with_the_other_setting_of_onednn(options: list[str], otherwise: dict[str, End], tmp_path: Path) -> None:
    """All scripts one after the other, in one process."""
    written = process(run_examples.NAMES, tmp_path, "-m", "fitcore", *options).stderr
    assert f"fitcore ran {sum(fits for fits, _, _ in FITS.values())} fits of" in written
    assert "Keras ran" not in written
    assert written.count("UserWarning: --noise") == (len(OWN_STEP) if options else 0)
    ends, differing = json.loads((tmp_path / "end.json").read_text()), []
    for name in FITS:
        try:
            assert_same(ends[name], otherwise[name])
        except AssertionError as error:
            differing.append(f"{name}: {error}"[:300])
    assert not differing


@pytest.mark.slow
@by_name
def test_killed_and_started_again(name: str, otherwise: dict[str, End], tmp_path: Path) -> None:
    """By a signal, while the training goes on after its second checkpoint; with oneDNN's other setting."""
    surviving = ("-m", "fitcore", "--checkpoint_dir", "checkpoints", "--checkpoint_every=2 steps")
    killed = process([name], tmp_path, *surviving, check=False, DIE=f"call-{FITS[name][1]:04d} 2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "end.json").exists()
    assert_account(name, process([name], tmp_path, *surviving).stderr)
    assert_same(json.loads((tmp_path / "end.json").read_text())[name], otherwise[name])


def process(
    names: list[str], folder: Path, *options: object, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run scripts in a process with oneDNN's other setting, in this folder; their ends are in end.json there."""
    run = [sys.executable, *map(str, options), run_examples.__file__, "end.json", *names]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | other_setting() | variables
    return subprocess.run(run, env=environment, cwd=folder, check=check, capture_output=True, text=True, timeout=600)
