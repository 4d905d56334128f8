"""A checkpoint's files: TensorFlow reads them, and checks them; those of the former format are read as before."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from cut_fits import arrays, shared
from cuts import Case, Cut, differing

import fitcore
from fitcore.checkpoint import bundle, store
from fitcore.checkpoint.state import Variables
from fitcore.run import Run

ARRAYS = {
    "model/0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/10/ärger": np.array(2.5),
    "model/2/half": np.ones((3, 1), ml_dtypes.bfloat16),
    "optimizer/0/iterations": np.array(7, np.int64),
    "metrics/0/none": np.zeros((0, 4)),
    "host/flags": np.array([True, False]),
    "host/" + "long" * 60: np.arange(3000, dtype=np.uint32),
}


@pytest.mark.parametrize(
    "more",
    [{}, {"model/3/large": np.ones(bundle.LARGE // 8)}, {"model/3/tensor": tf.ones(3)}],
    ids=["by records", "a large one", "a tensor"],
)
def test_tensorflow_reads_what_was_written(more: dict[str, Any], tmp_path: Path) -> None:
    kept = {name: np.asarray(array) for name, array in (ARRAYS | more).items()}
    bundle.write(str(tmp_path / "state"), ARRAYS | more)
    assert sorted(os.listdir(tmp_path)) == ["state.data-00000-of-00001", "state.index"]
    reader = tf.train.load_checkpoint(str(tmp_path / "state"))
    assert {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()} == {
        name: array.shape for name, array in kept.items()
    }
    for name, array in kept.items():
        assert (reader.get_tensor(name).dtype, reader.get_tensor(name).tobytes()) == (array.dtype, array.tobytes())


def test_a_checkpoint_of_no_arrays_is_one(tmp_path: Path) -> None:
    bundle.write(str(tmp_path / "state"), {})
    assert tf.train.load_checkpoint(str(tmp_path / "state")).get_variable_to_shape_map() == {}


@pytest.mark.parametrize("name", ["state.data-00000-of-00001", "state.index"])
def test_tensorflow_itself_finds_a_flipped_bit(name: str, tmp_path: Path) -> None:
    bundle.write(str(tmp_path / "state"), ARRAYS)
    data = bytearray((tmp_path / name).read_bytes())
    data[100] ^= 1
    (tmp_path / name).write_bytes(data)

    def read() -> None:
        reader = tf.train.load_checkpoint(str(tmp_path / "state"))
        for each in ARRAYS:
            reader.get_tensor(each)

    with pytest.raises((tf.errors.OpError, RuntimeError), match=r"[Cc]hecksum"):
        read()


def test_a_run_goes_on_from_a_checkpoint_of_format_1(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    want = case.fit("undisturbed")
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    for path in (tmp_path / "cut" / "checkpoints").glob("*-step-*"):
        as_format_1(path)
    shutil.copytree(tmp_path / "cut", tmp_path / "damaged")
    assert differing(want, case.fit("cut", None, {"every": "2 steps", "resume": "must"})) == []
    for path in (tmp_path / "damaged" / "checkpoints").glob("*/host.json"):
        path.write_text(path.read_text().replace("4", "3", 1))
    with pytest.raises(store.CheckpointError, match=r"host\.json is damaged"):
        case.fit("damaged", None, {"every": "2 steps"})


def as_format_1(path: Path) -> None:
    """Make of a checkpoint what the version before would have written."""
    manifest = json.loads((path / "manifest.json").read_text())["manifest"]
    (path / "host.json").write_text(json.dumps(manifest.pop("host")))
    reader = tf.train.load_checkpoint(str(path / "state"))
    tensors = {name: tf.constant(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
    tf.raw_ops.SaveV2(
        prefix=str(path / "state"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    files = {name: store.sha256_of(path / name) for name in os.listdir(path) if name != "manifest.json"}
    digest = hashlib.sha256(json.dumps(manifest | {"format": 1, "files": files}, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"manifest": manifest | {"format": 1, "files": files}, "sha256": digest}, indent=1)
    (path / "manifest.json").write_text(text)


@pytest.mark.parametrize("large", [1 << 22, 8], ids=["copied", "held"])
def test_a_snapshot_stays_as_it_is_while_the_training_goes_on(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LARGE", large)
    seen = []

    class Reads(fitcore.Hook):
        when = fitcore.every(2)

        def after_steps(self, view: fitcore.View) -> None:
            if not seen:
                variables = Variables(run_of(view))
                seen.append((variables.read(), {name: held.numpy() for name, held in run_of(view).variables()}))

    def run_of(view: fitcore.View) -> Run:
        return next(each for each in gc.get_objects() if isinstance(each, Run) and each.fit is view.fit)

    fitcore.fit(**arrays(epochs=1, verbose=0), hooks=[Reads()])
    read, then = seen[0]
    assert {name: np.asarray(value).tobytes() for name, value in read.items()} == {
        name: value.tobytes() for name, value in then.items()
    }
    kept = [held.numpy().tobytes() for held in shared().variables]
    assert kept != [value.tobytes() for value in then.values()][: len(kept)]
