"""Random generators that a PyTorch DataLoader draws from, saved and put back. PyTorch itself is never imported here.

A pass over a shuffled DataLoader draws its order when it begins: from the `generator` that the loader or its sampler was given,
or else from PyTorch's global one. Its dataset may draw as rows are read, from any generator. So a pass that another process had
begun is read again, up to its place, from the state in which it began. TensorFlow may read a batch ahead. What the reading has
drawn from is therefore left as the reading leaves it: what was saved may have been ahead or not.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

_DEPTH = 4  # from the loader: its batch sampler, that one's sampler, what that one draws from
_LARGE = 1000  # a container with more than so many entries holds data


def global_state() -> np.ndarray | None:
    """State of PyTorch's global generator, uint8; None if PyTorch isn't loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else _state(torch.default_generator)


def set_global_state(state: np.ndarray | None) -> None:
    """Put that back, if PyTorch is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None and state is not None:
        _set_state(torch.default_generator, state)


def states(loader: Any) -> dict[str, Any]:
    """States of the global generators, and of those that the loader, its samplers and its dataset hold, as plain values."""
    return {"global": _globals(), "own": {way: _state(generator) for way, generator in _generators(loader)}}


def read_again(loader: Any, began: Mapping[str, Any], read: Callable[[], Any], batches: int) -> frozenset[str]:
    """Read the first batches of a pass again.

    Args:
      loader: the DataLoader.
      began: its `states` when the pass began in another process.
      read: reads the next batch.
      batches: how many, at least 1.

    Returns:
      The global generators that reading drew from, but for what PyTorch's draws as a pass begins: "python", "numpy", "torch".
    """
    _set_globals(began["global"])
    set_own_states(loader, began["own"])
    read()
    before = {**began["global"], "torch": global_state()}
    for _ in range(batches - 1):
        read()
    return frozenset(name for name, state in _globals().items() if not _alike(state, before[name]))


def set_own_states(loader: Any, states: Mapping[str, Any]) -> None:
    """Put those back that the loader, its samplers and its dataset hold."""
    for way, generator in _generators(loader):
        if way in states:
            _set_state(generator, states[way])


def _globals() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    python = [version, np.array(numbers, np.int64), gauss]
    return {"python": python, "numpy": np.random.get_state(legacy=False), "torch": global_state()}


def _set_globals(states: Mapping[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    np.random.set_state(states["numpy"])
    set_global_state(states["torch"])


def _alike(state: Any, other: Any) -> bool:
    leaves, others = keras.tree.flatten(state), keras.tree.flatten(other)
    return len(leaves) == len(others) and all(np.array_equal(a, b) for a, b in zip(leaves, others))


def _generators(loader: Any) -> Iterator[tuple[str, Any]]:
    """(way to it, generator): PyTorch's, NumPy's and Python's, each once."""
    kinds = (sys.modules["torch"].Generator, np.random.Generator, np.random.RandomState, random.Random)
    seen: dict[int, Any] = {}
    left: list[tuple[str, Any, int]] = [("", loader, 0)]
    for way, value, depth in left:  # it grows meanwhile
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, kinds):
            yield way, value
        elif depth < _DEPTH:
            items: Any = (
                value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
            )
            if isinstance(value, (dict, list, tuple)) and len(value) <= _LARGE:
                left += [(f"{way}[{key}]", each, depth + 1) for key, each in items]
            attributes = getattr(value, "__dict__", {})
            left += [(f"{way}.{name}", each, depth + 1) for name, each in attributes.items()]


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, random.Random):
        version, numbers, gauss = generator.getstate()
        return [version, np.array(numbers, np.int64), gauss]
    return np.array(generator.get_state().numpy())


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate((state[0], tuple(state[1].tolist()), state[2]))
    else:
        generator.set_state(sys.modules["torch"].from_numpy(np.array(state)))
