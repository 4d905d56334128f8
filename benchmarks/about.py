"""What a measurement is kept with: when, on which machine and with which versions it was made."""

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


def write(path: str, command: str, data: Mapping[str, Any], device: str = "cpu") -> None:
    """Write figures to a file, under that head; `python -m benchmarks.results` makes a table of them."""
    Path(path).write_text(json.dumps(about(command, device) | dict(data), indent=1) + "\n")
