"""A checkpoint's files: TensorFlow reads them, and checks them; those of the former format are read as before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from cut_fits import arrays
from cuts import Case, Cut, differing

from fitcore.checkpoint import bundle, store

ARRAYS = {
    "model/0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/10/ärger": np.array(2.5),
    "model/2/half": np.ones((3, 1), ml_dtypes.bfloat16),
    "optimizer/0/iterations": np.array(7, np.int64),
    "metrics/0/none": np.zeros((0, 4)),
    "host/flags": np.array([True, False]),
    "host/" + "long" * 60: np.arange(3000, dtype=np.uint32),
}


@pytest.mark.parametrize("large", [False, True], ids=["by records", "by SaveV2"])
def test_tensorflow_reads_what_was_written(large: bool, tmp_path: Path) -> None:
    kept = ARRAYS | ({"model/3/large": np.ones(bundle.LARGE // 8)} if large else {})
    bundle.write(str(tmp_path / "state"), kept)
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
