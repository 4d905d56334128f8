"""A fit with any of Keras's callbacks can be cut: started again, it ends in the bits of one that never was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from cut_fits import EPOCH, arrays, compiled, plain_model
from cuts import Case, assert_survives
from models import linear

import fitcore
from fitcore.checkpoint import callbacks as callback_states


class Counting(keras.callbacks.Callback):
    """Sets a learning rate that depends on how many batches it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.batches, self.held = 0, object()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        self.model.optimizer.learning_rate = 0.01 / self.batches


class CountingOn(Counting):
    def state(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state(self, state: dict[str, int]) -> None:
        self.batches = state["batches"]


CB = keras.callbacks
CALLBACKS: dict[str, Callable[[Path], list[Any]]] = {
    "early_stopping": lambda folder: [CB.EarlyStopping("val_loss", min_delta=0.3, patience=2, restore_best_weights=True)],
    "reduce_lr": lambda folder: [CB.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.5), CB.TerminateOnNaN()],
    "scheduler": lambda folder: [
        CB.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        CB.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ],
    "model_checkpoint": lambda folder: [
        CB.ModelCheckpoint(folder / "best.weights.h5", save_best_only=True, save_weights_only=True)
    ],
    "each_batches": lambda folder: [
        CB.ModelCheckpoint(str(folder / "{epoch}-{batch}.weights.h5"), save_freq=4, save_weights_only=True)
    ],
    "csv": lambda folder: [CB.CSVLogger(folder / "log.csv")],
    "csv_appending": lambda folder: [CB.CSVLogger(folder / "log.csv", append=True)],
    "backup": lambda folder: [CB.BackupAndRestore(folder / "backup")],
    "of_ones_own": lambda folder: [CountingOn()],
}


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix == ".csv"} | {
        path.name: b"" for path in folder.rglob("*.h5")
    }


@pytest.mark.parametrize("name", CALLBACKS)
def test_any_callback(name: str, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return arrays(model=plain_model(), validation_split=0.1, epochs=4, callbacks=CALLBACKS[name](folder))

    assert_survives(Case(make, tmp_path), [3, EPOCH + 1, ("on_epoch_end", 2), ("on_train_end", 1)], again=True)
    assert written(tmp_path / "cut0" / "written") == written(tmp_path / "undisturbed" / "written")


@pytest.mark.parametrize(("mode", "loss"), [("min", 0.98), ("max", 1.02)])
def test_less_than_min_delta_is_no_improvement_in_another_process_either(mode: str, loss: float) -> None:
    def started() -> list[keras.callbacks.Callback]:
        made = [each("val_loss", mode=mode, patience=1, min_delta=0.05) for each in (CB.EarlyStopping, CB.ReduceLROnPlateau)]
        for callback in made:
            callback.set_model(model)
            callback.on_train_begin()
        return made

    model = linear()
    ended = []
    for resumed in (False, True):
        model.stop_training, model.optimizer.learning_rate = False, 0.5
        callbacks = started()
        for epoch, value in enumerate((1.0, loss)):
            for i, callback in enumerate(callbacks):
                callback.on_epoch_end(epoch, {"val_loss": value})
                if resumed and epoch == 0:
                    saved = callback_states.state(callback)
                    callbacks[i] = started()[i]
                    callback_states.load_state(callbacks[i], saved)
        ended.append((model.stop_training, float(model.optimizer.learning_rate)))
    assert ended == [(True, pytest.approx(0.05))] * 2


def test_swapped_averages(tmp_path: Path) -> None:
    model = compiled(keras.optimizers.SGD(0.05, use_ema=True))

    def make(folder: Path) -> dict[str, Any]:
        return arrays(model=model, validation_split=0.1, callbacks=[CB.SwapEMAWeights(swap_on_epoch=True)])

    assert_survives(Case(make, tmp_path), [3, EPOCH + 1], every="1 epoch")
    assert_survives(Case(make, tmp_path / "steps"), [3, EPOCH + 1])


def test_a_callback_without_state_is_named(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(model=plain_model(), callbacks=[Counting()]), tmp_path)
    with pytest.warns(UserWarning, match="Counting .*has no methods `state` and `load_state`"):
        case.fit("auto", None, {})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=r"must.*Counting"):
        case.fit("auto", None, {"resume": "must"})


def points(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """All points that TensorBoard would show, by folder and tag, but for those about the process; those that are alike once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for directory in sorted({path.parent for path in folder.rglob("events.*")}):
        events = EventAccumulator(str(directory), {"tensors": 0}).Reload()
        for tag in events.Tags()["tensors"]:
            values = [(event.step, event.tensor_proto.SerializeToString()) for event in events.Tensors(tag)]
            own = "steps_per_second" in tag or tag.startswith("fit/")
            if not own and tag not in ("keras", "custom_scalars__config__"):
                found[f"{directory.relative_to(folder)}/{tag}"] = sorted(set(values))
    return found


BOARDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "keras": lambda folder: {"callbacks": [CB.TensorBoard(folder / "board", update_freq=1)]},
    "fitcore": lambda folder: {"hooks": [fitcore.TensorBoard(folder / "board")]},
    "noise": lambda folder: {"noise": fitcore.GradientNoise(directory=folder / "board")},
}


@pytest.mark.parametrize("name", BOARDS)
def test_no_point_is_missing_and_those_written_twice_are_alike(name: str, tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(model=plain_model(), validation_split=0.1) | BOARDS[name](folder), tmp_path)
    assert_survives(case, [3, EPOCH + 2, ("on_train_end", 1)])
    assert points(tmp_path / "cut0" / "written") == points(tmp_path / "undisturbed" / "written")
