"""What was found out once for a model, its batches, this machine and these versions, and is kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitcore.checkpoint.fingerprint import machine, of_model, of_optimizer, versions
from fitcore.data import Source
from fitcore.engine import Engine


def about(engine: Engine, source: Source | None) -> dict[str, Any]:
    """Model, optimizer, batches, machine and versions, in words that are the same in another process.

    Args:
      engine: trains the model.
      source: the batches; None: a Python generator's, which nobody knows beforehand.
    """
    return {
        "model": of_model(engine.model),
        "optimizer": of_optimizer(engine.parts.optimizer),
        "weights": [list(variable.shape) for variable in engine.parts.trainable()],
        "metrics": [type(metric).__name__ for metric in engine.parts.metrics()],
        "batch": None if source is None else [repr(source.specs()[1]), getattr(source, "sizes", None)],
        "jit_compile": engine.jit_compile,
        "machine": machine(),
        "versions": versions(),
    }


def key_of(what: Mapping[str, Any]) -> str:
    """All of it as one word."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def cache_file(name: str = "plans") -> Path:
    """Where it is kept: NAME.json in the user's cache folder for fitcore, or beside the file that FITCORE_CACHE names, which
    is that of the plans."""
    given = os.environ.get("FITCORE_CACHE")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fitcore")
    plans = Path(given) if given else folder / "plans.json"
    return plans if name == "plans" else plans.with_name(f"{name}.json")


def load(path: Path) -> dict[str, Any]:
    """All that is kept in a file, by key; empty if there is none, or it can't be read."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def keep(path: Path, key: str, found: Mapping[str, Any]) -> None:
    """Keep this too. Where nothing can be written, nothing is: it is found out again next time."""
    written = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(load(path) | {key: dict(found)}, indent=1))
        written.replace(path)
