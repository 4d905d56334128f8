"""Python's, NumPy's, TensorFlow's, Keras's and, if it is loaded, PyTorch's global random state, as plain values and arrays."""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fitcore import keras_private
from fitcore.data import torch_generators
from fitcore.python_draws import Traces


def state() -> dict[str, Any]:
    """The state of every global generator. TensorFlow's and Keras's generator objects: None where there is none yet."""
    eager, torch = keras_private.eager_random_state(), torch_generators.global_state()
    return {
        "python": _packed(random.getstate()),
        "numpy": np.random.get_state(legacy=False),
        "tensorflow": None if eager is None else _packed(eager),
        "global_generator": keras_private.global_generator_state(),
        "global_seed_generator": keras_private.global_seed_generator_state(),
        **({} if torch is None else {"torch": torch}),
    }


def load_state(state: dict[str, Any], but: Collection[str] = ()) -> None:
    """Take up what `state` gave, but for these."""
    if state["global_generator"] is not None:
        keras_private.set_global_generator_state(state["global_generator"])
    if state["global_seed_generator"] is not None:
        keras_private.set_global_seed_generator_state(state["global_seed_generator"])
    if "python" not in but:
        random.setstate(_unpacked(state["python"]))  # after the others, which may draw from it when they are made
    if "numpy" not in but:
        np.random.set_state(state["numpy"])
    if "torch" not in but:
        torch_generators.set_global_state(state.get("torch"))
    if state["tensorflow"] is not None:
        keras_private.set_eager_random_state(_unpacked(state["tensorflow"]))


def state_of_traces(traces: Traces) -> list[Any]:
    """What a step's traces began from, as `load_state_of_traces` takes it."""
    return [None if each is None else [_packed(each[0]), list(each[1])] for each in traces.began]


def load_state_of_traces(traces: Traces, saved: Sequence[Any]) -> None:
    """Let the traces to come draw what they drew in the process that `state_of_traces` was called in."""
    traces.draw_again([None if each is None else (_unpacked(each[0]), tuple(each[1])) for each in saved])


@functools.lru_cache(maxsize=2)
def _packed(state: tuple[Any, ...]) -> list[Any]:
    """The state of a `random.Random`, its 625 numbers as an array; kept, since it seldom changes from one save to the next."""
    version, numbers, gauss = state
    return [version, np.array(numbers, np.int64), gauss]


def _unpacked(state: Sequence[Any]) -> tuple[Any, ...]:
    version, numbers, gauss = state
    return version, tuple(numbers.tolist()), gauss
