"""What a run is made in: versions, devices, command and commit; environment.json."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore.command_line import run_state


def surroundings() -> dict[str, Any]:
    """What the bits of a run may depend on besides its flags: git commit, versions, machine; as environment.json has them."""
    devices = [(device, tf.config.experimental.get_device_details(device)) for device in tf.config.list_physical_devices()]
    return {
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "fitcore": _version("fitcore"),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "devices": [f"{device.name} {details.get('device_name', '')}".strip() for device, details in devices],
    }


def note_start(path: Path, **settings: Any) -> None:
    """Write environment.json as of the run's first start, with the time and the command of each; `settings` go in too."""
    now = {
        "experiment": experiment(),
        "command": shlex.join(sys.orig_argv),
        "started": time.strftime(run_state.TIME),
        **settings,
        **surroundings(),
    }
    environment = json.loads(path.read_text()) if path.exists() else now
    environment.setdefault("starts", []).append({name: now[name] for name in ("started", "command", "git_commit")})
    write_json(path, environment)


def experiment() -> str:
    """The experiment's module name as `python -m` takes it, or its script's name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def command() -> str:
    """What launches the experiment, without its flags."""
    is_module = getattr(sys.modules["__main__"], "__spec__", None) is not None
    return f"python -m {experiment()}" if is_module else f"python {shlex.quote(sys.argv[0])}"


def _git_commit() -> str | None:
    """The working directory's commit, "-dirty" after it if files were changed; None where there is none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


PIECE = 1 << 14  # numbers of an array that are text at a time


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; arrays become lists, what JSON doesn't know its text.

    A long array is written in pieces: as text it takes many times the memory that it takes itself.

    Raises:
      OSError: it can't be written; what was there before still is.
    """
    long: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) > PIECE:
            long.append(value)
            return f"{_LONG}{len(long) - 1}"
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)

    text = json.dumps(value, indent=1, default=plain) + "\n"
    written = path.with_name(f".{path.name}")
    try:
        with open(written, "w") as file:
            for i, part in enumerate(re.split(rf'"{_LONG}(\d+)"', text)):
                file.writelines(_pieces(long[int(part)]) if i % 2 else (part,))
        written.replace(path)
    except OSError:
        written.unlink(missing_ok=True)
        raise


_LONG = "a long array, "


def _pieces(array: np.ndarray) -> Iterator[str]:
    for start in range(0, len(array), PIECE):
        yield ("[" if start == 0 else ", ") + json.dumps(array[start : start + PIECE].tolist())[1:-1]
    yield "]"
