"""What users write themselves: layers, losses, metrics, train steps, callbacks, sources. A script gets those that it uses."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.hunt.pieces import callbacks, layers, sources, steps

PIECES: dict[str, Any] = {
    name: each
    for module in (layers, steps, callbacks, sources)
    for name, each in vars(module).items()
    if getattr(each, "__module__", "") == module.__name__
}
NAMES: dict[str, Any] = {  # what a script imports
    "random": random,
    "keras": keras,
    "np": np,
    "tf": tf,
    "layers": keras.layers,
    "Any": Any,
    "Iterator": Any,
}
