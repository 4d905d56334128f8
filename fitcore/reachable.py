"""What can be reached from a model, its loss, its metrics and callbacks: variables that are in none of Keras's lists.

Keras tracks the weights of layers, optimizers and metrics that are attributes of a layer. It doesn't track a plain
`tf.Variable`, an optimizer beside the compiled one, or what a loss or a callback holds. All of these decide how a training goes
on. So they are looked for: in attributes, containers, closures and the globals that a function reads.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.tracing import is_scratch

MOST = 200_000  # objects that are looked at

TABLES = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)

_NOTHING_IN_THEM = (
    bool, int, float, complex, str, bytes, type(None), np.generic, tf.Tensor, tf.DType, tf.TensorShape, tf.Graph,
    tf.data.Dataset, tf.distribute.Strategy, keras.KerasTensor, types.ModuleType, types.CodeType, types.FrameType,
    types.GeneratorType, keras.callbacks.History,
)  # fmt: skip
_NOT_FOLLOWED = ("_fitcore_engine",)  # attributes; this one has the programs
_OURS = ("fitcore.optimizers", "fitcore.hooks")  # of fitcore's own objects those that may hold what users gave
_PLAIN_HOLDERS = ("types", "argparse")  # of Python's own classes those that are only attributes
_LIBRARIES = {"keras", "tensorflow", "numpy", "fitcore", "torch", "jax", "scipy", "pandas", "matplotlib"}


@dataclass
class Reached:
    """What was found, each thing once, by the shortest way to it.

    Attributes:
      variables: (way, variable): `model.first.momentums[0]`. The way is the same in another process.
      tables: the same for tables that can be written to.
      owners: by the id of a resource's handle, the way to the object that keeps it.
      whole: whether all was looked at; False if there was too much.
    """

    variables: list[tuple[str, Any]] = field(default_factory=list)
    tables: list[tuple[str, Any]] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)
    whole: bool = True


def reach(roots: Mapping[str, Any]) -> Reached:
    """Look through everything that these objects hold.

    Args:
      roots: by name.
    """
    found = Reached()
    seen: dict[int, Any] = {}  # holds what it knows by id
    left: deque[tuple[str, Any]] = deque()

    def add(way: str, value: Any) -> None:
        if not isinstance(value, _NOTHING_IN_THEM) and id(value) not in seen:
            seen[id(value)] = value
            left.append((way, value))

    for name, root in roots.items():
        add(name, root)
    while left:
        way, value = left.popleft()
        if isinstance(value, (keras.Variable, tf.Variable)):
            if isinstance(value, keras.Variable):  # what it is made of is no other variable
                seen[id(value.value)] = value.value
            if not is_scratch(value):
                found.variables.append((way, value))
            continue
        if _library(type(value)) == "tensorflow":
            found.owners |= {id(handle): way for handle in _handles(value)}
        if isinstance(value, TABLES):
            found.tables.append((way, value))
            continue
        for part, held in _held(value):
            add(f"{way}{part}", held)
        if len(seen) > MOST:
            found.whole = False
            break
    return found


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """(how to write it behind the way to `value`, what `value` holds)."""
    if isinstance(value, keras.optimizers.Optimizer):
        yield from ((f".variables[{i}]", each) for i, each in enumerate(value.variables))
    if isinstance(value, (dict, types.MappingProxyType)):  # no other mapping: it may read a file for each item
        for i, (key, held) in enumerate(list(value.items())):
            yield f"[{key!r}]" if isinstance(key, str) else f"[{i}]", held
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"[{i}]", held) for i, held in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"[{i}]", held) for i, held in enumerate(_in_order(value)))
    elif isinstance(value, functools.partial):
        yield from ((f".{name}", getattr(value, name)) for name in ("func", "args", "keywords"))
    elif isinstance(value, types.MethodType):
        yield from ((f".{name}", getattr(value, name)) for name in ("__self__", "__func__"))
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from ((f".{name}", getattr(value, name)) for name in ("fget", "fset"))
    elif isinstance(value, type):
        if not _library(value):
            yield from ((f".{name}", held) for name, held in list(vars(value).items()))
        return
    elif _library(type(value)) == "tensorflow" and hasattr(value, "python_function"):  # a `tf.function`
        yield "", value.python_function
        return
    if isinstance(value, types.FunctionType) or not _is_looked_into(value):
        return
    for name, held in _attributes(value):
        if name not in _NOT_FOLLOWED:
            yield f".{name}", held
    for kind in type(value).__mro__:
        if not _library(kind):
            yield f".{kind.__name__}", kind


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes that are there, without a property being asked."""
    with contextlib.suppress(AttributeError):  # it has slots alone
        yield from list(object.__getattribute__(value, "__dict__").items())
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if isinstance(vars(kind).get(name), types.MemberDescriptorType):
                try:
                    yield name, getattr(value, name)
                except AttributeError:  # it has not been set
                    continue


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function holds: cells, defaults, attributes; and those globals that its code names."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or ()):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # empty so far
            continue
    yield from ((f".defaults[{i}]", each) for i, each in enumerate(function.__defaults__ or ()))
    yield from ((f".{name}", each) for name, each in (function.__kwdefaults__ or {}).items())
    yield from ((f".{name}", each) for name, each in list(vars(function).items()))
    if _is_library(function.__module__):
        return
    for name in _named(function.__code__):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]


def _named(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _named(each)


def _handles(value: Any) -> Sequence[Any]:
    return keras_private.resource_of(value) if hasattr(value, "__dict__") else ()


def _in_order(values: Iterable[Any]) -> list[Any]:
    """A set's members in an order that is the same in another process, as far as their names tell."""
    return sorted(values, key=lambda each: (type(each).__name__, str(getattr(each, "path", getattr(each, "name", "")))))


def _is_looked_into(value: Any) -> bool:
    """Whether its attributes may lead to what a user made."""
    match _library(type(value)):
        case "tensorflow":
            return isinstance(value, (tf.Module, tf.random.Generator, tf.train.ExponentialMovingAverage)) or hasattr(
                value, "_self_setattr_tracking"
            )
        case "fitcore":
            return type(value).__module__.startswith(_OURS)
        case "keras" | "":
            return True
        case library:
            return library in _PLAIN_HOLDERS


def _library(kind: type) -> str:
    """The library that a class is of; empty for a user's, or one that builds on Keras."""
    return _is_library(kind.__module__)


def _is_library(module: Any) -> str:
    name = str(module).partition(".")[0]
    return name if name in _LIBRARIES or name in sys.stdlib_module_names - {"__main__"} or name == "builtins" else ""
