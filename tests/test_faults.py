"""What a run survives on its disk and in its data: damaged checkpoints, no room, no permission, a source that raises.

Faults are real: files are cut and bits flipped, disks are full tmpfs mounts or mounted read-only over the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf

import fitcore
from fitcore.checkpoint.store import Store, sealed
from fitcore.command_line.launch import RunDirectory

ARGUMENTS: dict[str, Any] = {"batch_size": 4, "epochs": 3, "verbose": 0}  # on 20 rows: 15 steps
NOTHING: Mapping[int, Any] = {}


class Cut(Exception):
    """Ends a training, as a kill would."""


class At(fitcore.Hook):
    """Does something after given steps: by step, a function."""

    when = fitcore.EVERY_STEP

    def __init__(self, deeds: Mapping[int, Callable[[], Any]]) -> None:
        self.deeds = deeds

    def after_steps(self, view: fitcore.View) -> None:
        self.deeds.get(view.step, lambda: None)()


class Begin(keras.callbacks.Callback):
    """Can end a fit before its first step, when it has chosen its checkpoint."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut

    def state(self) -> None: ...

    def load_state(self, state: None) -> None: ...

    def on_train_begin(self, logs: Any = None) -> None:
        if self.cut:
            raise Cut


def cut() -> None:
    raise Cut


def train(
    directory: Path | None, deeds: Mapping[int, Any] = NOTHING, peek: bool = False, resume: str = "auto", **more: Any
) -> Any:
    """Train the same model from the start, or go on: (bytes of all variables, History, bytes of the curves)."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1234)
    model = more.pop("model", models.linear)()
    checkpoint = None if directory is None else fitcore.Checkpoint(directory, every="2 steps", keep=3, resume=resume)
    hooks = [At(deeds), *more.pop("hooks", [])]
    data = more.pop("data", models.data)()
    data = data if isinstance(data, tuple) else (data,)
    given = {"hooks": hooks, "callbacks": [Begin(peek)], "checkpoint": checkpoint, **ARGUMENTS, **more}
    history = fitcore.fit(model, *data, **given)
    return models.state(model), history.history, {name: values.tobytes() for name, values in history.steps.items()}


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    return train(None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut after step 9; checkpoints of steps 4, 6 and 8."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    with pytest.raises(Cut):
        train(directory, {9: cut})
    assert steps_in(directory) == [8, 6, 4]
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting isn't allowed here: {getattr(error, 'stderr', error)}")


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """What is opened from now on at this path is on a read-only disk."""
    mount("--bind", str(path), str(path))
    remount = ["mount", "-o", "remount,bind,ro", str(path)]
    try:
        for _ in range(500):  # busy as long as a checkpoint that is being written has a file open here
            if subprocess.run(remount, capture_output=True).returncode == 0:
                break
            time.sleep(0.01)
        else:
            mount(*remount[1:])
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    """Leave no room: not a byte."""
    with open(disk / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


def steps_in(directory: Path) -> list[int]:
    """The steps of the checkpoints in a folder, the newest first."""
    names = sorted((path.name for path in directory.glob("[0-9]*-step-*")), reverse=True)
    return [int(name.rpartition("-")[2]) for name in names]


def listing(directory: Path) -> dict[str, bytes]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def chosen(directory: Path, resume: str = "auto") -> tuple[int, str]:
    """(the step of the checkpoint a fit goes on from, what it warns of), without a step of training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(Cut):
            train(directory, peek=True, resume=resume)
    words = " ".join(str(each.message) for each in caught)
    path = words.partition("Going on from ")[2].partition(",")[0]
    return (int(path.rpartition("-")[2]) if path else steps_in(directory)[0]), words


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << 4
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte less": lambda path: os.truncate(path, path.stat().st_size - 1),
    "first byte": lambda path: flip(path, 0.0),
    "a byte": lambda path: flip(path, 0.6),
    "last byte": lambda path: flip(path, 1.0),
}
PARTS = ("state.index", "state.data-00000-of-00001", "manifest.json")


@pytest.mark.parametrize("part", PARTS)
def test_damage_is_found_and_named_and_the_last_good_one_used(part: str, saved: Path, copy: Path) -> None:
    path = next(copy.glob("*-step-8")) / part
    for name, damage in DAMAGES.items():
        shutil.copy(saved / path.relative_to(copy), path)
        damage(path)
        before = listing(copy)
        with pytest.raises(fitcore.CheckpointError, match=part):
            train(copy, peek=True, resume="must")
        step, words = chosen(copy)
        assert (step, part in words) == (6, True), name
        assert listing(copy) == before  # nothing was deleted


@pytest.mark.parametrize("damage", ["missing", "empty", "first byte"])
def test_without_a_good_one_a_run_never_begins_anew(damage: str, copy: Path) -> None:
    DAMAGES[damage](copy / "curves")
    before = listing(copy)
    for resume in ("auto", "must", "force"):
        with pytest.raises(fitcore.CheckpointError, match="curves"):
            train(copy, resume=resume)
    assert listing(copy) == before


def test_curves_that_lack_their_end_serve_the_checkpoint_before(copy: Path, undisturbed: Any) -> None:
    rows = 8
    os.truncate(copy / "curves", (copy / "curves").stat().st_size // rows * (rows - 1))
    step, words = chosen(copy)
    assert (step, "curves" in words) == (6, True)
    with pytest.warns(UserWarning, match="Going on from .*-step-6, the newest good one"):
        assert train(copy) == undisturbed


def test_a_newer_format_is_refused_by_name(copy: Path) -> None:
    path = next(copy.glob("*-step-8")) / "manifest.json"
    manifest = json.loads(path.read_text())["manifest"] | {"format": 99}
    path.write_text(sealed(manifest))
    with pytest.raises(fitcore.CheckpointError, match=r"manifest\.json is of format 99"):
        train(copy, resume="must")
    assert chosen(copy)[0] == 6


def test_another_models_checkpoint_is_refused_and_kept(copy: Path) -> None:
    before = listing(copy)
    with pytest.raises(fitcore.CheckpointError, match=r"saved by another run: `model\."):
        train(copy, model=models.noisy)
    with (
        pytest.warns(UserWarning, match="The last bits may differ"),
        pytest.raises(fitcore.CheckpointError, match=r"manifest\.json is of another model or optimizer: it has .* of shape"),
    ):
        train(copy, model=models.noisy, resume="force")
    assert listing(copy) == before


def test_the_newest_is_the_last_written_whatever_the_clock_said(copy: Path) -> None:
    for i, path in enumerate(sorted(copy.glob("*-step-*"))):
        os.utime(path, (10_000 - i, 10_000 - i))
    assert chosen(copy)[0] == 8


def test_what_a_kill_left_half_written_or_half_deleted_is_cleared_away(copy: Path, undisturbed: Any) -> None:
    half = copy / ".writing-0000005"
    shutil.copytree(next(copy.glob("*-step-8")), half)
    (half / "manifest.json").unlink()
    with open(copy / "curves", "ab") as file:
        file.write(b"rows of a checkpoint that was never finished")
    oldest = next(copy.glob("*-step-4"))
    (oldest / "manifest.json").unlink()  # pruning begins with it
    (oldest / "state.index").unlink()
    with pytest.raises(Cut):
        train(copy, peek=True)
    assert not half.exists()
    assert train(copy) == undisturbed
    assert not oldest.exists()
    assert not list(copy.glob(".*"))
    assert len(steps_in(copy)) == 3


# --- no room, no permission -------------------------------------------------------------------------------------------------


def readable_steps(folder: Path, tag: str) -> list[int]:
    """The steps of a tag in all event files of a folder, of which none may end in a torn record."""
    found = []
    for path in sorted(folder.glob("events*")):
        data, place = path.read_bytes(), 0
        while place < len(data):  # length, its checksum, the event, its checksum
            length = int.from_bytes(data[place : place + 8], "little")
            assert place + length + 16 <= len(data), "a torn record"
            event = tf.compat.v1.Event.FromString(data[place + 12 : place + 12 + length])
            found += [event.step for value in event.summary.value if value.tag == tag]
            place += length + 16
    return sorted(found)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_fails_costs_no_bit_of_the_training(fault: str, disk: Path, tmp_path: Path) -> None:
    """From step 11 to 50 nothing can be written: checkpoints, events of training and of its noise.

    On a disk that becomes read-only files that are open can still be written to, here as under Linux's bind mounts.
    """
    found: dict[str, Any] = {}
    stack = contextlib.ExitStack()

    def begin() -> None:
        found["before"] = steps_in(disk / "checkpoints")
        if fault == "full":
            fill(disk)
            stack.callback((disk / "filler").unlink)
        else:
            stack.enter_context(read_only(disk))

    def end() -> None:
        found["after"] = steps_in(disk / "checkpoints")
        shutil.copytree(disk / "checkpoints", tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
        stack.close()  # from here on a checkpoint may be written, and older ones deleted

    deeds: dict[int, Callable[[], Any]] = {11: begin, 50: end}
    if fault == "full":  # and full again, after a checkpoint that was being written has been given up
        deeds |= dict.fromkeys(range(12, 50), lambda: fill(disk))
    hooks = [fitcore.TensorBoard(disk / "events", record=("step/loss",))]
    noise = fitcore.GradientNoise(directory=disk / "noise")
    with warnings.catch_warnings(record=True) as caught, stack:
        warnings.simplefilter("always")
        state, history, steps = train(disk / "checkpoints", deeds, hooks=hooks, noise=noise, epochs=12)
    plain = train(None, epochs=12)
    assert (state, history, steps["step/loss"]) == (*plain[:2], plain[2]["step/loss"])
    told = [str(each.message) for each in caught if "can't be written" in str(each.message)]
    events = 2 * ["TensorBoard events"] if fault == "full" else []
    assert sorted(words.partition(" can't")[0] for words in told) == ["A checkpoint", *events]
    assert found["after"][0] in (found["before"][0], 10)  # that of step 10 was perhaps being written
    assert whole(tmp_path / "copy") == found["after"][0]
    assert steps_in(disk / "checkpoints")[:2] == [60, 60]
    assert not list((disk / "checkpoints").glob(".*"))
    for folder, tag in ((disk / "events/train", "step/loss"), (disk / "noise/train", "noise/trace")):
        steps = readable_steps(folder, tag)
        assert len(steps) == len(set(steps))
        assert {*range(1, 11), *range(52, 61)} <= set(steps)
        assert (len(steps) < 60) == (fault == "full")  # what was lost is lost


def whole(directory: Path) -> int:
    """The newest checkpoint in the folder, all of whose bytes are good."""
    store = Store(directory)
    try:
        return int(store.read(store.checkpoints()[0]).manifest["step"])
    finally:
        store.close()


def test_a_folder_that_cant_be_written_is_an_error_at_once(tmp_path: Path, disk: Path) -> None:
    with read_only(tmp_path):
        with pytest.raises(OSError, match="Read-only"):
            train(tmp_path / "checkpoints", {1: cut})
        with pytest.raises(OSError, match="Read-only"):
            fitcore.TensorBoard(tmp_path / "events")
        with pytest.raises(OSError, match="Read-only"):
            train(None, {1: cut}, noise=fitcore.GradientNoise(directory=tmp_path / "noise"))
    (disk / "checkpoints").mkdir()
    fill(disk)
    with pytest.raises(OSError, match="No space"):
        train(disk / "checkpoints", {1: cut})
    (disk / "filler").unlink()
    with pytest.raises(Cut):  # it isn't locked by the attempt that failed
        train(disk / "checkpoints", peek=True)


def test_what_a_failed_write_could_not_delete_is_no_obstacle_to_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.go_on_from(None)
    half, nothing = store.new(), np.zeros((0, 1))
    (half / "state.index").write_bytes(b"half")
    with read_only(tmp_path), pytest.raises(OSError, match="Read-only"):
        store.write(half, {}, {}, {"step": 1}, nothing, keep=2)
    assert half.exists()
    path = store.write(None, {"weight": np.ones(3)}, {}, {"step": 2}, nothing, keep=2)
    assert store.read(path).arrays()["weight"].tolist() == [1, 1, 1]
    assert not half.exists()
    store.close()


def test_a_user_without_permission_is_told_at_once(copy: Path) -> None:
    """In a forked child that has become nobody: root is not stopped by a folder's mode."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder = copy / "checkpoints"
    folder.mkdir(mode=0o555)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65534)
            Store(folder)
        except PermissionError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_history_json_of_a_launched_run_stays_when_the_disk_is_full(disk: Path) -> None:
    run = RunDirectory(disk)
    run.history("model").history["loss"] = [1.0]
    run.write_histories()
    before = (disk / "history.json").read_text()
    run.history("more").history["loss"] = [2.0] * 100_000
    fill(disk)
    with pytest.warns(UserWarning, match="history.json can't be written: .*No space"):
        run.write_histories()
    assert (disk / "history.json").read_text() == before
    assert sorted(os.listdir(disk)) == ["filler", "history.json"]


# --- the data's source ------------------------------------------------------------------------------------------------------


class Failing(keras.utils.PyDataset):
    """20 rows in batches of 4; raises at batch 3 when it is asked for it the third time."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.x, self.y = models.data()
        self.asked, self.fails = 0, fails

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked += index == 3
        if self.fails and self.asked == 3:
            raise OSError("the file with batch 3 has gone")
        return self.x[4 * index : 4 * index + 4], self.y[4 * index : 4 * index + 4]


def test_a_source_that_raises_raises_as_without_a_checkpoint_and_the_run_can_go_on(tmp_path: Path) -> None:
    def dataset(fails: bool) -> Callable[[], Any]:
        return lambda: Failing(fails)

    errors = []
    for directory in (None, tmp_path):
        with pytest.raises(tf.errors.OpError, match="the file with batch 3 has gone") as caught:
            train(directory, data=dataset(True), batch_size=None)
        errors.append(type(caught.value))
    assert errors[0] is errors[1]
    assert steps_in(tmp_path)
    assert train(tmp_path, data=dataset(False), batch_size=None, resume="must") == train(
        None, data=dataset(False), batch_size=None
    )
