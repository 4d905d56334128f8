"""Curves in a run's directory: written while its fits train, read back whole, resumed without a point twice."""

import json
import tracemalloc
import warnings

import keras
import numpy as np
import pytest
from models import linear

import fitcore
from fitcore.command_line import curves
from fitcore.command_line.curves import CurveWriter, file_of, read
from fitcore.command_line.launch import RunDirectory

X = np.ones((12, 3), "float32")


def train(run, name="a/fit", hooks=(), **arguments):
    history = run.history(name)
    arguments = {"batch_size": 3, "epochs": 2, "verbose": 0, "callbacks": [history], "hooks": hooks} | arguments
    return fitcore.fit(linear(), X, X[:, :1], **arguments)


class Look(fitcore.Hook):
    """Reads the curves after each step, while the fit runs."""

    when = fitcore.EVERY_STEP

    def __init__(self, path):
        self.path, self.lengths, self.epochs = path, [], []

    def after_steps(self, view):
        fit = read(self.path).get("a/fit", {"steps": {}, "epochs": []})
        self.lengths.append(len(fit["steps"].get("step/loss", [[]])[0]))
        self.epochs.append(len(fit["epochs"]))


def test_curves_are_those_of_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "EPOCH_SECONDS", 0.0)
    run = RunDirectory(tmp_path)
    history = train(run, record=["step/loss", "step/learning_rate"], validation_data=(X, X[:, :1]))
    (found,) = read(tmp_path).values()
    assert found["steps"].keys() == history.steps.keys() == {"step/loss", "step/learning_rate"}
    for name, (steps, values) in found["steps"].items():
        assert steps.tolist() == list(range(8))
        assert values.tolist() == history.steps[name].tolist()
    assert [each["logs"] for each in found["epochs"]] == [
        {name: values[i] for name, values in history.history.items()} for i in range(2)
    ]
    assert [(each["epoch"], each["step"]) for each in found["epochs"]] == [(0, 4), (1, 8)]
    first, *_, second = (json.loads(line) for line in file_of(tmp_path, "a/fit").read_text().splitlines())
    assert second.keys() == {"fit", "first", "steps", "epochs", "time", "seconds"}
    assert (first.keys() - second.keys(), first["fingerprint"]["epochs"]) == ({"fingerprint"}, 2)


def test_a_fit_of_keras_has_its_epochs(tmp_path):
    model = linear()
    model.fit(X, X[:, :1], batch_size=3, epochs=2, verbose=0, callbacks=[RunDirectory(tmp_path).history("k")])
    assert [(each["step"], *each["logs"]) for each in read(tmp_path)["k"]["epochs"]] == [(4, "loss"), (8, "loss")]


@pytest.mark.parametrize(("seconds", "lengths"), [(0.0, [0, 1, 2, 3, 4, 5, 6, 7]), (1e9, [0, 0, 0, 0, 4, 4, 4, 4])])
def test_they_grow_while_the_fit_runs(tmp_path, monkeypatch, seconds, lengths):
    monkeypatch.setattr(curves, "SECONDS", seconds)
    monkeypatch.setattr(curves, "EPOCH_SECONDS", 0.0)
    look = Look(tmp_path)
    train(RunDirectory(tmp_path), hooks=[look])
    assert look.lengths == lengths
    assert look.epochs == [0, 0, 0, 0, 1, 1, 1, 1]


def test_short_epochs_share_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "EPOCH_SECONDS", 1e9)
    train(RunDirectory(tmp_path), epochs=5)
    (line,) = curves.lines_of(file_of(tmp_path, "a/fit"))
    assert [each["epoch"] for each in line["epochs"]] == [0, 1, 2, 3, 4]


def test_writing_them_needs_no_returns_to_the_host(tmp_path):
    with_curves = train(RunDirectory(tmp_path)).account["calls"]
    assert with_curves == fitcore.fit(linear(), X, X[:, :1], batch_size=3, epochs=2, verbose=0).account["calls"]


def test_the_noise_comes_at_the_run_s_end(tmp_path):
    run = RunDirectory(tmp_path)
    history = train(run, noise=True)
    assert not any(name.startswith("noise/") for name in read(tmp_path)["a/fit"]["steps"])
    run.write_histories()
    found = read(tmp_path)["a/fit"]["steps"]
    assert found.keys() == history.steps.keys()
    assert np.array_equal(found["noise/trace"][1], history.steps["noise/trace"], equal_nan=True)


@pytest.mark.parametrize("every", ["3 steps", "1 epoch"])
def test_a_resumed_fit_has_each_point_once(tmp_path, monkeypatch, every):
    monkeypatch.setattr(curves, "SECONDS", 0.0)

    class Crash(fitcore.Hook):
        when = fitcore.EVERY_STEP

        def after_steps(self, view):
            if view.step == 7 and crashing:
                raise MemoryError

    def start(folder):
        run = RunDirectory(tmp_path / folder)
        keras.utils.set_random_seed(0)
        checkpoint = fitcore.Checkpoint(tmp_path / folder / "checkpoints", every)
        return train(run, epochs=3, hooks=[Crash()], checkpoint=checkpoint)

    crashing = True
    with pytest.raises(MemoryError):
        start("run")
    path = file_of(tmp_path / "run", "a/fit")
    assert len(read(tmp_path / "run")["a/fit"]["steps"]["step/loss"][0]) == 7  # more than what was saved
    with open(path, "a") as file:
        file.write('{"fit": "a/fit", "first": 7, "ste')  # killed while it wrote
    crashing = False
    ended, undisturbed = start("run"), start("undisturbed")
    assert ended.steps["step/loss"].tolist() == undisturbed.steps["step/loss"].tolist()
    lines = list(curves.lines_of(path))
    points = [line["first"] + i for line in lines for i in range(len(line["steps"].get("step/loss", ())))]
    assert points == [*range(12)]
    values = read(tmp_path / "run")["a/fit"]["steps"]["step/loss"][1]
    assert values.tolist() == ended.steps["step/loss"].tolist()
    assert [each["epoch"] for line in lines for each in line["epochs"]] == [0, 1, 2]


def test_a_fit_that_begins_anew_begins_its_file_anew(tmp_path):
    for epochs in (3, 1):
        train(RunDirectory(tmp_path), epochs=epochs)
    assert len(read(tmp_path)["a/fit"]["epochs"]) == 1


def test_of_what_is_there_twice_the_later_counts(tmp_path):
    file_of(tmp_path, "f").parent.mkdir()
    lines = [
        {"fit": "f", "first": 0, "steps": {"a": [1, 2, 3]}, "epochs": [{"epoch": 0, "step": 4, "seconds": 1}]},
        {"fit": "f", "first": 2, "steps": {"a": [4, 5]}, "epochs": [{"epoch": 0, "step": 4, "seconds": 2}]},
    ]
    file_of(tmp_path, "f").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"fit')
    found = read(tmp_path)["f"]
    assert [values.tolist() for values in found["steps"]["a"]] == [[0, 1, 2, 3], [1, 2, 4, 5]]
    assert found["epochs"] == [{"epoch": 0, "step": 4, "seconds": 2}]


def test_two_fits_never_share_a_file(tmp_path):
    run = RunDirectory(tmp_path)
    run.history("a/b")
    with pytest.raises(ValueError, match="'a__b'"):
        run.history("a__b")


def test_a_disk_that_takes_nothing_costs_the_points_and_one_warning(tmp_path):
    (tmp_path / curves.FOLDER).write_text("in the way")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = train(RunDirectory(tmp_path))
    assert len(history.history["loss"]) == 2
    assert [str(each.message).startswith("Curves can't be written to") for each in said].count(True) == 1


def test_many_steps_take_little_memory(tmp_path):
    writer, values = CurveWriter(tmp_path, "f"), np.linspace(0, 1, 300_000)
    tracemalloc.start()
    try:
        writer.steps(0, {"step/loss": values})
        writer.flush()
        writer.wait()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * values.nbytes  # all numbers at once as Python's would take 4 times that, their text 2.5
    assert np.array_equal(read(tmp_path)["f"]["steps"]["step/loss"][1], values)
