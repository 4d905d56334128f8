"""A folder of checkpoints: each whole or not there, each with a manifest that tells whether its files are good.

    DIR/lock                     held by the process that trains
    DIR/curves                   float64, a row per step: what was recorded; a checkpoint says how many rows are its own
    DIR/0000012-step-1200/       a checkpoint, the 12th; the highest number is the newest, whatever the clock says
        manifest.json            format, versions, step, epoch, SHA-256 of each file, the model's variables, and all that is
                                 no array; and its own SHA-256
        state.index, state.data-00000-of-00001      TensorFlow's checkpoint format: every array, by name
        data.*                   the state of a tf.data iterator, where there is one; TensorFlow's format too

A checkpoint is written under a name that begins with ".", synced, and renamed. In format 1, which is read too, host.json was a
file of its own, and the manifest's SHA-256 that of its JSON with sorted keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

FORMAT = 2
_TEMPORARY = ".writing-"

_held: set[str] = set()  # folders that this process has locked: record locks don't keep a process from itself


class CheckpointError(RuntimeError):
    """A checkpoint can't be used: it is damaged, of something else, or there is none."""


class CheckpointInUseError(CheckpointError):
    """Another process, or another fit of this one, trains in the same folder."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and found good.

    Attributes:
      path: its folder.
      manifest: facts about it: those given to `Store.write`, the format, and what is in its files.
      host: its host state, as JSON holds it.
      curves: [rows, columns] float64, what was recorded up to it.
    """

    path: Path
    manifest: Mapping[str, Any]
    host: Any
    curves: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array in it, by name."""
        reader = tf.train.load_checkpoint(str(self.path / "state"))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


class Store:
    """The folder, locked.

    Args:
      directory: created if missing.
      writes: False for a worker of a cluster that isn't the chief: it reads what is there, without a lock, and changes nothing.

    Raises:
      CheckpointInUseError: another process has locked it, or this one.
      OSError: it can't be created or written in.
    """

    def __init__(self, directory: str | os.PathLike[str], writes: bool = True) -> None:
        self.directory, self.writes = Path(directory), writes
        self.rows = 0  # rows of curves on disk, and the digest over their bytes
        self._digest = hashlib.sha256()
        if not writes:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._key = str(self.directory.resolve())
        if self._key in _held:  # before its lock is opened: closing that again would take away the lock that is held
            raise CheckpointInUseError(f"`checkpoint`: another fit of this process trains in {self.directory}.")
        self._lock = open(self.directory / "lock", "ab+", buffering=0)  # noqa: SIM115 (held as long as this)
        try:
            # A record lock: it ends with the process, however that ends, and worker processes don't inherit it.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().decode().strip() or "unknown"
            self._lock.close()
            raise CheckpointInUseError(
                f"`checkpoint`: another process (pid {owner}) trains in {self.directory}. One process at a time."
            ) from error
        _held.add(self._key)
        try:
            self._lock.truncate(0)
            self._lock.write(str(os.getpid()).encode())
            for left in self.directory.glob(f"{_TEMPORARY}*"):  # by a process that was killed while it wrote
                shutil.rmtree(left)
        except OSError:
            self.close()
            raise
        self._next = max((_number(path.name) for path in self.checkpoints()), default=0) + 1

    def close(self) -> None:
        if self.writes:
            _held.discard(self._key)
            self._lock.close()

    def checkpoints(self) -> list[Path]:
        """The checkpoints' folders, the newest first."""
        names = os.listdir(self.directory) if self.directory.is_dir() else ()
        found = [name for name in names if _number(name) > 0]
        return [self.directory / name for name in sorted(found, key=_number, reverse=True)]

    # --- writing ----------------------------------------------------------------------------------------------------------

    def new(self) -> Path:
        """A temporary folder, to put files of the next checkpoint into before it is written."""
        folder = self.directory / f"{_TEMPORARY}{self._next:07d}"
        try:
            folder.mkdir()
        except FileExistsError:  # of a write that failed, when the disk let nothing be deleted either
            shutil.rmtree(folder)
            folder.mkdir()
        return folder

    def write(
        self,
        folder: Path | None,
        arrays: Mapping[str, np.ndarray | tf.Tensor],
        host: Any,
        facts: Mapping[str, Any],
        rows: np.ndarray,
        keep: int,
    ) -> Path:
        """Make the temporary `folder`, or a new one, the next checkpoint, and delete all but the newest `keep`.

        Args:
          folder: from `new`, with what is in it already; None: there is nothing yet.
          arrays: arrays or tensors, by name.
          host: what JSON can hold.
          facts: for the manifest, "step" among them.
          rows: [n, columns] float64, what was recorded since the last one.

        Raises:
          OSError, tf.errors.OpError: it can't be written; then the checkpoints there are as they were, and `folder` is gone.
        """
        folder = self.new() if folder is None else folder
        try:
            data, columns = np.ascontiguousarray(rows, np.float64).tobytes(), rows.shape[1]
            self._append(data, columns)
            digest = self._digest.copy()
            digest.update(data)
            curves = {"rows": self.rows + len(rows), "columns": columns, "sha256": digest.hexdigest()}
            prefix, tensors = str(folder / "state"), [tf.convert_to_tensor(value) for value in arrays.values()]
            tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(arrays), shape_and_slices=[""] * len(arrays), tensors=tensors)
            names = sorted(os.listdir(folder))
            files = {name: sha256_of(folder / name) for name in names}
            text = sealed({"format": FORMAT, **facts, "curves": curves, "files": files, "host": host})
            (folder / "manifest.json").write_text(text)
            _sync(self.directory / "curves", *(folder / name for name in names), folder / "manifest.json", folder)
            path = self.directory / f"{self._next:07d}-step-{facts['step']}"
            self.rows, self._digest = self.rows + len(rows), digest  # they are on the disk now, and needn't be written again
            folder.rename(path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._next += 1
        _sync(self.directory)
        self.prune(keep)
        return path

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints."""
        for old in self.checkpoints()[keep:]:
            (old / "manifest.json").unlink(missing_ok=True)  # first: what is left of it is no checkpoint
            with contextlib.suppress(OSError):  # not shutil.rmtree, which takes several times as long
                for name in os.listdir(old):
                    (old / name).unlink()
                old.rmdir()

    def _append(self, data: bytes, columns: int) -> None:
        """Put rows behind those of the last checkpoint, in place of what a checkpoint that was never finished left there."""
        with open(self.directory / "curves", "ab") as file:
            place = self.rows * columns * 8
            if file.tell() != place:
                file.truncate(place)
            file.write(data)

    # --- reading ----------------------------------------------------------------------------------------------------------

    def read(self, path: Path) -> Saved:
        """Read a checkpoint and check every byte of it.

        Raises:
          CheckpointError: it is damaged, or written by a newer format; names the file.
        """
        whole = path / "manifest.json"
        try:
            text = whole.read_text()
            facts = json.loads(text)["manifest"]
            newer = facts["format"] > FORMAT
            good = text == (sealed(facts) if facts["format"] > 1 else _sealed_1(facts))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{whole} can't be read: {error}") from error
        if newer:
            raise CheckpointError(f"{whole} is of format {facts['format']}; this version of fitcore knows up to {FORMAT}.")
        if not good:
            raise CheckpointError(f"{whole} is damaged: its SHA-256 is another one than it says.")
        for name, expected in facts["files"].items():
            try:
                actual = sha256_of(path / name)
            except OSError as error:
                raise CheckpointError(f"{path / name} can't be read: {error}") from error
            if actual != expected:
                raise CheckpointError(f"{path / name} is damaged: its SHA-256 is another one than {whole} says.")
        host = facts["host"] if facts["format"] > 1 else json.loads((path / "host.json").read_text())
        return Saved(path, facts, host, self._read_curves(facts["curves"]))

    def go_on_from(self, saved: Saved | None) -> None:
        """Let curves be written behind those of this checkpoint; None: from the start."""
        data = b"" if saved is None else saved.curves.tobytes()
        self.rows = 0 if saved is None else len(saved.curves)
        self._digest = hashlib.sha256(data)

    def _read_curves(self, facts: Mapping[str, Any]) -> np.ndarray:
        path, size = self.directory / "curves", facts["rows"] * facts["columns"] * 8
        try:
            with open(path, "rb") as file:
                data = file.read(size)
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise CheckpointError(f"{path} is damaged: the SHA-256 of its first {size} bytes is not what the checkpoint says.")
        return np.frombuffer(data, np.float64).reshape(facts["rows"], facts["columns"])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest, block = hashlib.sha256(), bytearray(1 << 18)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
    return digest.hexdigest()


def sealed(facts: Any) -> str:
    """A manifest, and the SHA-256 of its bytes before it."""
    text = json.dumps(facts)
    return f'{{"sha256": "{hashlib.sha256(text.encode()).hexdigest()}", "manifest": {text}}}'


def _sealed_1(facts: Any) -> str:
    """The same in format 1."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return json.dumps({"manifest": facts, "sha256": digest}, indent=1)


def _number(name: str) -> int:
    """The number of a checkpoint with such a folder; 0 for any other name."""
    number, _, rest = name.partition("-step-")
    return int(number) if number.isdigit() and rest.isdigit() else 0


def _sync(*paths: Path) -> None:
    """Return when all of these files and folders are on the disk."""
    with contextlib.ExitStack() as stack:
        handles = []
        for path in paths:
            handles.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, handles[-1])
            if hasattr(os, "posix_fadvise"):  # writing begins, of all together: the syncs then take two thirds of the time
                os.posix_fadvise(handles[-1], 0, 0, os.POSIX_FADV_DONTNEED)
        for handle in handles:
            os.fsync(handle)
