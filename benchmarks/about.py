"""What a measurement is said and kept with: when, on which machine and with which versions it was made."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("keras", "tensorflow", "torch", "jax")


def about(command: str, device: str = "cpu") -> dict[str, Any]:
    """The head of what `python -m benchmarks.COMMAND --json` writes."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": device,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions,
    }


def line(device: str = "cpu") -> str:
    """The same in short, for the first line that a benchmark prints."""
    versions = about("", device)["versions"]
    return f"Keras {versions['keras']}, TensorFlow {versions['tensorflow']}, {device}, {os.cpu_count()} cores"


def write(path: str | Path, command: str, data: Mapping[str, Any], device: str = "cpu") -> None:
    """Write figures to a file, under that head; `python -m benchmarks.results` makes a table of some of them."""
    Path(path).write_text(json.dumps(about(command, device) | dict(data), indent=1) + "\n")
