"""python -m fitcore.plot: which curves of which runs are one line, on which axis, and that there is a picture in the end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fitcore import plot
from fitcore.command_line import records
from fitcore.command_line.curves import CurveWriter
from fitcore.command_line.series import CurveError, fits_of, lines, smoothed

ROOT = Path(__file__).parent.parent


def write_run(path, curve, **flags):
    """A run of one fit, "fit": two epochs of four steps of 8 rows; `curve` is its step/loss."""
    path.mkdir(parents=True)
    (path / "flags.txt").write_text("".join(f"--{name}={value}\n" for name, value in {"batch_size": 8, **flags}.items()))
    writer = CurveWriter(path, "fit")
    for epoch in range(2):
        writer.steps(4 * epoch, {"step/loss": np.array(curve[4 * epoch : 4 * epoch + 4], np.float64)})
        writer.epoch(epoch, 4 * epoch + 4, {"loss": curve[4 * epoch + 3], "val_loss": 2.0 * curve[4 * epoch + 3]})
        writer.flush()  # a line for each
    writer.wait()
    return path


@pytest.fixture
def runs(tmp_path):
    """Two seeds at one rate, and one of another."""
    base = np.arange(8.0)
    write_run(tmp_path / "a", base, seed=0, rate=0.1)
    write_run(tmp_path / "b", base + 2, seed=1, rate=0.1)
    write_run(tmp_path / "c", 10 * base, seed=0, rate=0.5)
    return tmp_path


def fits_in(folder):
    return [fit for run in records.find(folder) for fit in fits_of(run)]


def test_runs_that_differ_in_their_seed_alone_are_one_line_with_a_band(runs):
    slow, fast = lines(fits_in(runs), "step", "step/loss")
    assert (slow.label, slow.seeds, fast.label, fast.seeds) == ("--rate=0.1", 2, "--rate=0.5", 1)
    assert slow.x.tolist() == list(range(1, 9))
    assert slow.mean.tolist() == [*np.arange(8.0) + 1]
    assert slow.deviation == pytest.approx([np.std([0, 2], ddof=1)] * 8)
    assert np.isnan(fast.deviation).all()


def test_the_axes(runs):
    (fit,) = fits_of(records.read(runs / "a"))
    assert fit.on("step", "loss")[0].tolist() == [4, 8]
    assert fit.on("epoch", "loss")[0].tolist() == [1, 2]
    assert fit.on("epoch", "step/loss")[0].tolist() == [*np.arange(1, 9) / 4]
    assert fit.on("examples", "step/loss")[0].tolist() == [*np.arange(8, 72, 8)]
    seconds = fit.on("seconds", "step/loss")[0]
    assert (np.diff(seconds) >= 0).all()
    assert seconds[-1] == json.loads((runs / "a/curves/fit.jsonl").read_text().splitlines()[-1])["seconds"]
    (runs / "a/flags.txt").write_text("--seed=0\n")
    with pytest.raises(CurveError, match="--x=examples"):
        lines(fits_of(records.read(runs / "a")), "examples", "loss")


def test_seeds_of_which_one_was_killed(runs):
    file = runs / "b/curves/fit.jsonl"
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(whole[0] + whole[1][: len(whole[1]) // 2])
    slow, _ = lines(fits_in(runs), "step", "step/loss")
    assert slow.mean.tolist() == [1, 2, 3, 4, 4, 5, 6, 7]  # of both as far as both got
    assert np.isfinite(slow.deviation).tolist() == [True] * 4 + [False] * 4


def test_a_history_without_curves(runs):
    shutil.rmtree(runs / "a/curves")
    fit = {"epoch": [0, 1], "history": {"loss": [3.0, 7.0]}, "first_step": 0, "steps": {"step/loss": [*range(8)], "none": []}}
    (runs / "a/history.json").write_text(json.dumps({"fit": fit}))
    (found,) = fits_of(records.read(runs / "a"))
    for axis, places in {"step": [4, 8], "epoch": [1, 2]}.items():
        assert [values.tolist() for values in found.on(axis, "loss")] == [places, [3, 7]]
    with pytest.raises(CurveError, match="--x=seconds"):
        found.on("seconds", "loss")


def test_smoothing_is_tensorboards():
    assert smoothed(np.array([1.0, 3.0]), 0.5).tolist() == [1.0, (0.5 * 1 + 3) / 1.5]
    assert smoothed(np.array([1.0, 3.0]), 0.0).tolist() == [1.0, 3.0]


def test_pictures(runs, capsys):
    for name, head in {"a.png": b"\x89PNG", "a.svg": b"<?xml"}.items():
        assert plot.main([str(runs), "--smooth=0.5", f"--out={runs / name}"]) == 0
        assert (runs / name).read_bytes().startswith(head)
    figure = plot.draw(fits_in(runs), "epoch", ["loss", "val_loss", "step/loss"])
    loss, step = figure.axes
    assert [line.get_label() for line in loss.lines] == [
        f"{name} --rate={rate}" for name in ("loss", "val_loss") for rate in ("0.1 (2 seeds)", "0.5")
    ]
    assert loss.lines[0].get_color() == loss.lines[2].get_color() == step.lines[0].get_color()
    assert len(loss.collections) == 4  # bands


def test_the_noise_scale_is_beside_the_batch_size(runs):
    writer = CurveWriter(runs / "c", "fit")
    writer.steps(0, {"noise/scale": np.array([np.nan, 30.0, 50.0]), "noise/batch_size": np.array([8.0, 8.0, 16.0])})
    writer.flush()
    writer.wait()
    fits = fits_of(records.read(runs / "c"))
    (axes,) = plot.draw(fits, "examples", ["noise/scale"]).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    scale, size = axes.lines
    assert (scale.get_xdata().tolist(), scale.get_ydata().tolist()) == ([16, 32], [30, 50])
    assert size.get_ydata().tolist() == [8, 8, 16]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--y=nothing"], "--y=nothing: there is no such curve. There are: loss, step/loss, val_loss"),
        (["--smooth=1"], "--smooth must be at least 0 and below 1"),
        (["--out=a.gif"], "--out must end in .png or .svg"),
        (["--out=/nowhere/a.png"], "--out=/nowhere/a.png: No such file"),
        (["/nowhere"], "/nowhere is no directory"),
        ([str(ROOT / "fitcore")], "is no run's directory"),
    ],
)
def test_what_can_not_be_drawn(runs, capsys, arguments, says):
    with pytest.raises(SystemExit) as exit:
        plot.main([str(runs), *arguments])
    assert exit.value.code == 2
    assert says in capsys.readouterr().err


def test_it_does_not_wait_for_tensorflow(runs):
    command = [sys.executable, "-X", "importtime", "-m", "fitcore.plot", str(runs), f"--out={runs / 'a.png'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(runs / "a.png")
    assert "matplotlib" in done.stderr
    assert " tensorflow" not in done.stderr
