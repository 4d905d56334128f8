"""The fits of a script that was killed and is run again from its beginning: numbered, each saved in a folder of its own.

    DIR/lock          held by the process that runs the script
    DIR/start.npz     the random state that the script began with
    DIR/call-0001/    the first fit's: call.json says what it began with; the rest is as in store.py
    DIR/call-0002/    ...

A fit that finished is answered from its recorded end, the one under way is resumed, and what the script does between them it
does again, with the same weights and the same random state.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fitcore.checkpoint import plain, randomness
from fitcore.checkpoint.config import Checkpoint
from fitcore.checkpoint.fingerprint import differences
from fitcore.checkpoint.folders import Folders
from fitcore.checkpoint.state import FINISHED
from fitcore.checkpoint.store import CheckpointError, CheckpointInUseError
from fitcore.cluster import role


class Calls:
    """Numbers a script's calls of fit in their order, and gives each its `Checkpoint`.

    Making it gives Python's, NumPy's and TensorFlow's global generators the state that the script had when it was first
    started: one that sets no seed draws the same data again.

    Args:
      folders: where; call 1 is the fit named call-0001.

    Attributes:
      answered: how many calls were answered from their recorded ends.
    """

    def __init__(self, folders: Folders) -> None:
        self.answered = 0
        self._folders = folders
        self._number = 0
        self._running: int | None = None
        self._owner = (os.getpid(), threading.get_ident())
        self._warned_of_keras = False
        _same_start(folders.directory / "start.npz")

    @contextlib.contextmanager
    def call(self, model: Any, why_not: str | None) -> Iterator[Checkpoint | None]:
        """Around a call of `model.fit`; gives its checkpoint, None if Keras itself runs it.

        Args:
          model: the model.
          why_not: why fitcore can't run this call; None if it can.

        Raises:
          CheckpointError: the call is another one than had this number before, or can't be gone on from.
          RuntimeError: it can't be given a number that would be the same again.
        """
        if (os.getpid(), threading.get_ident()) != self._owner:
            raise RuntimeError(
                "`fit` was called in another thread or process than the one that began the script: such calls come in no fixed "
                "order, so they can't be told apart when the script is started again. Run it without --checkpoint_dir."
            )
        if self._running is not None:
            raise RuntimeError(
                f"`{type(model).__name__}.fit` was called within call {self._running} of fit, by a callback perhaps. If that "
                "call is resumed, it is not made again, so the script can't be resumed. Run it without --checkpoint_dir."
            )
        self._number += 1
        name = f"call-{self._number:04d}"
        what = f"Call {self._number} of fit, of {type(model).__name__},"
        left = self._folders.left(name)
        try:
            self._compare(name, what, _beginning(model, why_not))
            if why_not is not None:
                self._warn_of_keras(what)
                yield None
                return
            self._running = self._number
            yield self._folders.of(name)
        except CheckpointInUseError:
            raise
        except CheckpointError as error:
            raise CheckpointError(
                f"{what} can't be followed: {error} To train anew from there on, delete {self._folders.directory / name} and "
                "the folders with higher numbers."
            ) from error
        finally:
            self._running = None
        self.answered += left == FINISHED

    def _compare(self, name: str, what: str, now: dict[str, str]) -> None:
        """Note what a call begins with, or compare it with what was noted before.

        Raises:
          CheckpointError: it is run by another method; or it begins with something else, and nothing of it was saved.
        """
        folder = self._folders.directory / name
        path = folder / "call.json"
        if not path.exists():
            folder.mkdir(exist_ok=True)
            _write(path, json.dumps(now, indent=1).encode())
            return
        before = json.loads(path.read_text())
        other = "; ".join(differences(before, now))
        nothing_saved = self._folders.left(name) is None and self._folders.resume != "force"
        if other and (before["run by"] != now["run by"] or nothing_saved):
            raise CheckpointError(f"{other}.")
        if other:
            warnings.warn(
                f"{what} begins otherwise than before: {other}. Was the script changed since, or does it read a file that was "
                "written since? It goes on from what was saved, if anything was.",
                stacklevel=6,
            )

    def _warn_of_keras(self, what: str) -> None:
        if not self._warned_of_keras:
            warnings.warn(
                f"{what} is not saved, since Keras runs it: when the script is started again, it is run again as a whole. What "
                "follows has the same bits only if Keras comes to the same bits. So with all calls that Keras runs.",
                stacklevel=6,
            )
        self._warned_of_keras = True


def _beginning(model: Any, why_not: str | None) -> dict[str, str]:
    """What a call begins with, in words."""
    variables = [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]
    host, arrays = plain.split(randomness.state(), "random")
    return {
        "run by": "fitcore" if why_not is None else "Keras",
        "weights and optimizer": _digest(b"", variables),
        "random state": _digest(json.dumps(host).encode(), arrays.values()),
    }


def _digest(head: bytes, arrays: Any) -> str:
    digest = hashlib.sha256(head)
    for array in arrays:
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:16]


def _same_start(path: Path) -> None:
    """Take up the random state that is kept there, or keep the one there is."""
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            randomness.load_state(plain.join(json.loads(kept["host"].item()), kept))
        return
    host, arrays = plain.split(randomness.state(), "random")
    contents: dict[str, Any] = {"host": np.array(json.dumps(host)), **arrays}
    data = io.BytesIO()
    np.savez(data, **contents)
    _write(path, data.getvalue())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; in a cluster by the chief alone."""
    if not role.is_chief():
        return
    part = path.with_name(f".{path.name}")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
