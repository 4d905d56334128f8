"""A checkpoint's files: those of the former format are read as before, and what a snapshot holds stays as it is."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cut_fits import arrays, shared
from cuts import Case, Cut, differing

import fitcore
from fitcore.checkpoint import state, store
from fitcore.checkpoint.state import Variables
from fitcore.run import Run


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
    monkeypatch.setattr(state, "LARGE", large)
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
