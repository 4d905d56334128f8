"""State as JSON and arrays: nothing is pickled, and so nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_ARRAY, _SCALAR, _TUPLE = "__array__", "__scalar__", "__tuple__"


def split(value: Any, name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """A nested state as (what JSON can hold, the arrays in it by names that begin with `name`).

    Takes None, bools, numbers, text, arrays, and lists, tuples and dicts (with text for keys) of these.

    Raises:
      TypeError: it holds something else; says where.
    """
    arrays: dict[str, np.ndarray] = {}

    def walk(value: Any, name: str) -> Any:
        if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
            return value
        if isinstance(value, (np.generic, np.ndarray)) or hasattr(value, "__array__"):
            arrays[name] = np.array(value)  # a copy: what is saved is saved while the training goes on
            return {_SCALAR if isinstance(value, np.generic) else _ARRAY: name}
        if isinstance(value, Mapping):
            wrong = [key for key in value if not isinstance(key, str)]
            if wrong:
                raise TypeError(f"{name}: a dict to be saved must have text for keys. Received: {wrong[0]!r}")
            return {key: walk(held, f"{name}/{key}") for key, held in value.items()}
        if isinstance(value, (list, tuple)):
            items = [walk(held, f"{name}/{i}") for i, held in enumerate(value)]
            return items if isinstance(value, list) else {_TUPLE: items}
        raise TypeError(
            f"{name}: only numbers, text, arrays, and lists and dicts of them can be saved. "
            f"Received: {value!r} of type {type(value).__name__}"
        )

    return walk(value, name), arrays


def join(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The nested state that `split` took apart."""
    if isinstance(value, dict):
        match value:
            case {"__array__": name}:
                return arrays[name]
            case {"__scalar__": name}:
                return arrays[name][()]
            case {"__tuple__": items}:
                return tuple(join(item, arrays) for item in items)
        return {key: join(held, arrays) for key, held in value.items()}
    return [join(item, arrays) for item in value] if isinstance(value, list) else value
