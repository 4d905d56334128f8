"""TensorBoard events: the points, where they lie, and that they overlay on those of Keras's own callback."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

import fitcore
from fitcore.hooks import hparams

X = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]]).astype("float32")


def linear():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def read(directory):
    """{tag: [(step, float32 value as bytes)]} of the event files in `directory`."""
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()

    def bytes_of(proto):
        return (
            np.float32(proto.float_val[0]).tobytes() if proto.float_val else proto.tensor_content or b"".join(proto.string_val)
        )

    return {
        tag: [(event.step, bytes_of(event.tensor_proto)) for event in events.Tensors(tag)] for tag in events.Tags()["tensors"]
    }


def values(points):
    return np.frombuffer(b"".join(value for _, value in points), np.float32)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Keras's callback under model.fit, our hook under fitcore.fit: 3 epochs of 7 steps, the last one of 2 rows."""
    keras_dir, our_dir = tmp_path_factory.mktemp("keras"), tmp_path_factory.mktemp("fitcore")
    arguments = {"batch_size": 8, "epochs": 3, "verbose": 0, "validation_data": (X[:20], Y[:20])}
    callback = keras.callbacks.TensorBoard(str(keras_dir), update_freq=1, write_graph=False)
    linear().fit(X, Y, callbacks=[callback], **arguments)
    hook = fitcore.TensorBoard(our_dir, running=("loss", "mae"))
    history = fitcore.fit(linear(), X, Y, hooks=[hook], **arguments)
    return keras_dir, our_dir, history


@pytest.mark.parametrize("fold", ["train", "validation"])
def test_overlays_on_keras(both, fold):
    keras_dir, our_dir, _ = both
    theirs, ours = read(keras_dir / fold), read(our_dir / fold)
    shared = {
        "train": {"batch_loss", "batch_mae", "epoch_loss", "epoch_mae", "epoch_learning_rate"},
        "validation": {"epoch_loss", "epoch_mae", "evaluation_loss_vs_iterations", "evaluation_mae_vs_iterations"},
    }[fold]
    assert shared <= set(theirs)  # so that what follows compares something
    assert set(theirs) - set(ours) <= {"keras"}  # its text summary of the model
    for tag in shared:
        assert ours[tag] == theirs[tag], tag


def test_a_point_per_step_however_many_run_per_call(both):
    _, our_dir, history = both
    assert history.account["calls"] < history.account["steps"] == 21
    ours = read(our_dir / "train")
    for tag in ("step/loss", "step/learning_rate", "step/gradient_norm", "batch_loss"):
        assert [step for step, _ in ours[tag]] == list(range(1, 22)), tag
    for tag in ("step/loss", "step/gradient_norm"):
        np.testing.assert_array_equal(values(ours[tag]), history.steps[tag].astype(np.float32))
    assert not np.array_equal(values(ours["step/loss"]), values(ours["batch_loss"]))  # a batch's own; a running mean
    np.testing.assert_array_equal(values(ours["epoch_loss"]), np.float32(history.history["loss"]))


def test_a_further_fit_goes_on_where_the_first_ended(tmp_path):
    model, hook = linear(), fitcore.TensorBoard(tmp_path)
    for _ in range(2):
        fitcore.fit(model, X, Y, batch_size=25, verbose=0, hooks=[hook])
    files = list((tmp_path / "train").iterdir())
    assert len(files) == len({file.name for file in files}) == 2
    points = [read_points for file in sorted(files) for read_points in read(file)["step/loss"]]
    assert [step for step, _ in points] == [1, 2, 3, 4]


def test_events_can_be_read_while_training_runs(tmp_path):
    seen = []

    class Reader(fitcore.Hook):
        def after_epoch(self, view):
            seen.append(len(read(tmp_path / "train")["step/loss"]))

    fitcore.fit(linear(), X, Y, batch_size=25, epochs=2, verbose=0, hooks=[fitcore.TensorBoard(tmp_path), Reader()])
    assert seen == [2, 4]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        fitcore.TensorBoard(tmp_path / "file" / "events")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a folder without permission, also where root runs the tests
    with pytest.raises(PermissionError, match="events"):
        fitcore.TensorBoard(tmp_path / "events")


def test_a_runs_flags_and_results(tmp_path):
    flags = {"rate": 0.5, "epochs": 3, "fast": True, "stop": ["a", "b"], "note": "x", "unset": None}
    hparams.write(tmp_path, flags, {"accuracy": 0.75, "loss": float("nan")})
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    written = metadata.parse_session_start_info_plugin_data(content).hparams
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in written.items()}
    assert found == {"rate": 0.5, "epochs": 3, "fast": True, "stop": "['a', 'b']", "note": "x"}
    assert values(read(tmp_path)["accuracy"]) == [0.75]
    assert np.isnan(values(read(tmp_path)["loss"]))


def test_a_page_of_text_says_how_a_fit_ended(tmp_path):
    class Fails(fitcore.Hook):
        when = fitcore.every(5)

        def after_steps(self, view):
            raise RuntimeError

    def outcome(name, *hooks):
        with contextlib.suppress(RuntimeError):
            hooks = [*hooks, fitcore.TensorBoard(tmp_path / name)]
            fitcore.fit(linear(), X, Y, batch_size=25, epochs=3, verbose=0, hooks=hooks)
        ((_, value),) = read(tmp_path / name)["fit/outcome"]
        return value.decode(errors="replace")

    assert "ran to the end of epoch 3" in outcome("whole")
    stopped = outcome("stopped", fitcore.StopAfter(steps=4))
    assert "stopped by StopAfter after step 4, in epoch 2 of 3: 4 steps, 100 examples" in stopped
    assert "steps: 4, calls: " in stopped
    assert "interrupted after step 5, in epoch 3 of 3" in outcome("failed", Fails())
