"""`fitcore.Progress` on a terminal, in a notebook and in a pipe; it changes no bit and makes no call shorter."""

import io
import re
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import logging

import fitcore
from fitcore.command_line import launch
from fitcore.command_line.digests import CurvesHook
from fitcore.hooks import progress
from tests import models

X, Y = models.data(40)
ROOT = Path(__file__).parent.parent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def train(hooks, **arguments):
    keras.utils.set_random_seed(1)
    model = models.noisy()
    given = {"batch_size": 8, "epochs": 3, "verbose": 0, "validation_data": (X[:8], Y[:8])} | arguments
    history = fitcore.fit(model, X, Y, hooks=hooks, **given)
    return list(models.state(model).values()), history


def test_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    train([fitcore.Progress()], noise=True)
    shown = sys.stdout.getvalue()
    assert shown.endswith("\n")
    assert shown.count("\n") == 1
    first, *_, last = (line.rstrip() for line in shown.strip().split("\r"))
    assert re.fullmatch(r"epoch 1/3, step \d/5, loss [\d.]+, noise scale .*", first)
    assert "steps/s" not in first  # that was tracing
    number = r"[\d.e-]+"
    parts = (
        "epoch 3/3",
        "step 5/5",
        f"loss {number}",
        "noise scale .*",
        "0:00 left",
        f"{number}k? steps/s",
        f"{number}k? examples/s",
    )
    assert re.fullmatch(", ".join(parts), last), last


def test_a_narrow_terminal_keeps_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "20")
    train([fitcore.Progress()])
    assert {line.rstrip() for line in sys.stdout.getvalue().strip().split("\r")[1:]} <= {
        f"epoch {epoch}/3, step {step}/5" for epoch in (1, 2, 3) for step in range(6)
    }


def test_a_notebook_is_live_and_ipython_on_a_pipe_is_not(monkeypatch):
    assert not progress.is_live()
    for shell, live in ((types.SimpleNamespace(kernel=1), True), (types.SimpleNamespace(), False), (None, False)):
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert progress.is_live() == live


def test_a_line_per_epoch_in_a_pipe():
    script = (
        "import fitcore; from tests import models\n"
        "fitcore.fit(models.linear(), *models.data(), batch_size=5, epochs=3, verbose=0, hooks=[fitcore.Progress()])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split(",")[:2] for line in lines] == [[f"epoch {i}/3", " step 4/4"] for i in (1, 2, 3)]
    assert re.search(r", loss [\d.]+, 0:00 left, ", lines[-1])


def test_an_experiment_logs_at_the_level_info(launched, tmp_path, caplog):
    def main(run):
        assert run.verbose == 0
        model = models.linear()
        fitcore.fit(model, X, Y, epochs=2, verbose=run.verbose, callbacks=[run.history("fit")])

    before = logging.get_verbosity()
    for i, (given, lines) in enumerate({"--verbosity=0": 2, "--verbosity=-1": 0, "--verbose=0": 0}.items()):
        caplog.clear()
        launched(main, f"--logdir={tmp_path / str(i)}", "--nodeterministic", given)
        assert sum(record.message.startswith("epoch ") for record in caplog.records) == lines, given
    logging.set_verbosity(before)


@pytest.mark.parametrize("live", [True, False])
def test_it_changes_no_bit_and_makes_no_call_shorter(monkeypatch, live):
    monkeypatch.setattr(sys, "stdout", Terminal() if live else io.StringIO())
    bits, history = train([])
    other_bits, other = train([fitcore.Progress()])
    assert bits == other_bits
    assert history.history == other.history
    assert all(np.array_equal(values, other.steps[name]) for name, values in history.steps.items())
    assert history.account["calls"] == other.account["calls"]


def test_numbers_in_words():
    assert [progress.short(number) for number in (1.234, 999.4, 999.6, 45678, 1e6)] == ["1.23", "999", "1k", "45.7k", "1M"]
    assert [progress.clock(seconds) for seconds in (0.4, 59.6, 3723)] == ["0:00", "1:00", "1:02:03"]


@pytest.mark.parametrize("shown", [True, False])
def test_a_run_goes_on_where_progress_is_no_longer_shown_or_only_now(tmp_path, monkeypatch, shown):
    def start(progress):
        run = launch.RunDirectory(tmp_path / str(progress), progress=progress)
        checkpoint = fitcore.Checkpoint(tmp_path / "checkpoints", every="2 steps")
        return train([], callbacks=[run.history("fit")], checkpoint=checkpoint)[0]

    def interrupted(self, view):
        if view.step > 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CurvesHook, "after_steps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(shown)
    assert start(not shown) == train([])[0]
