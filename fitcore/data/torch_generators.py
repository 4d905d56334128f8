"""Random generators that a PyTorch DataLoader draws from, saved and put back. PyTorch itself is never imported here.

A pass over a shuffled DataLoader draws its order when it begins: from the `generator` that the loader or its sampler was given,
or else from PyTorch's global one. So a pass that another process had begun is read again from the state in which it began, and
then every generator gets the state that it had when the run was saved.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

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


def own_states(loader: Any) -> dict[str, Any]:
    """States of the generators that the loader, its samplers and its dataset hold, by the way to them: plain values."""
    return {way: _state(generator) for way, generator in _generators(loader)}


def set_own_states(loader: Any, states: Mapping[str, Any]) -> None:
    """Put these back."""
    for way, generator in _generators(loader):
        if way in states:
            _set_state(generator, states[way])


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
