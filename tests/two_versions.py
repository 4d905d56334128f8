"""A checkpoint of one Keras, gone on from on another: `python -m tests.two_versions OTHER_PYTHON`.

Trains in processes of their own, stopped in mid-epoch by SIGTERM, and ends with 1 unless

- the other Python's environment goes on where it stopped, and ends in the bits of a run that was left alone;
- this one refuses, and says which versions differ;
- this one goes on with resume="force", and warns of the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

STOP = 12  # the step after which a run is stopped: in the second of four epochs of 8 steps


def train(directory: str, resume: str, stop: bool) -> None:
    """Train a small model; prints the digest of its weights and its optimizer's state."""
    import keras  # here: the process that starts the others needs none of it
    import numpy as np

    import fitcore

    class Stopper(fitcore.Hook):
        when = fitcore.When(steps=STOP)

        def after_steps(self, view: fitcore.View) -> None:
            if stop:
                os.kill(os.getpid(), signal.SIGTERM)

    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(256, 8)).astype("float32"), rng.normal(size=(256, 1)).astype("float32")
    checkpoint = fitcore.Checkpoint(directory, every="100 steps", resume=resume)
    fitcore.fit(model, x, y, epochs=4, verbose=0, hooks=[Stopper()], checkpoint=checkpoint)
    state = b"".join(variable.numpy().tobytes() for variable in (*model.variables, *model.optimizer.variables))
    print("digest", hashlib.sha256(state).hexdigest())


def run(python: str, directory: Path, resume: str = "auto", stop: bool = False) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "tests.two_versions", "--train", str(directory), resume, *["stop"] * stop]
    return subprocess.run(command, capture_output=True, text=True)


def digest(ended: subprocess.CompletedProcess[str]) -> str:
    return ended.stdout.strip().rpartition("\n")[2]


def names_versions(ended: subprocess.CompletedProcess[str]) -> bool:
    return all(f"`{name}` was" in ended.stderr for name in ("keras", "tensorflow"))


def main(other: str) -> list[str]:
    """What is not as it should be."""
    wrong = []

    def check(what: str, holds: bool, ended: subprocess.CompletedProcess[str]) -> None:
        print(f"{what}: {'yes' if holds else 'NO'}", flush=True)
        if not holds:
            wrong.append(what)
            print(ended.stdout + ended.stderr)

    with tempfile.TemporaryDirectory() as folder:
        alone, stopped, again = (Path(folder, name) for name in ("alone", "stopped", "again"))
        undisturbed = run(other, alone)
        check("the other one trains", undisturbed.returncode == 0, undisturbed)
        ended = run(other, stopped, stop=True)
        check("SIGTERM: it saves itself", ended.returncode == 75, ended)
        shutil.copytree(stopped, again)
        ended = run(sys.executable, stopped)
        check("this one refuses", ended.returncode == 1 and "CheckpointError" in ended.stderr, ended)
        check("... and says which versions differ", names_versions(ended), ended)
        ended = run(sys.executable, stopped, "force")
        check('this one goes on with resume="force"', ended.returncode == 0, ended)
        check("... and says the same", names_versions(ended), ended)
        ended = run(other, again, "must")
        check("the other one goes on, bit-identical", ended.returncode == 0 and digest(ended) == digest(undisturbed), ended)
    return wrong


if __name__ == "__main__":
    if sys.argv[1] == "--train":
        train(sys.argv[2], sys.argv[3], sys.argv[4:] == ["stop"])
    else:
        sys.exit(bool(main(sys.argv[1])))
