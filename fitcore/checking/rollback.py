"""A model and everything that it leads to, put back as it was after a training.

Nothing is copied but contents: objects stay the same, and get back what they held. That also undoes what a training makes at
its first step: weights, the optimizer's variables, compiled functions. Nothing holds them any more. What a class of the
user's keeps (optimizers of its own, counters, lists, arrays) is found in attributes, containers, closures, and in the globals
that its functions name. What can't be put back: iterators and generators under way, files, and what libraries keep privately.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.checkpoint import randomness
from fitcore.replicas import components

Undo = Callable[[], Any]

_TABLES = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_NOTHING_IN_THEM = (
    bool, int, float, complex, str, bytes, type(None), np.generic, tf.Tensor, tf.DType, tf.TensorShape, tf.Graph,
    tf.data.Dataset, tf.distribute.Strategy, keras.KerasTensor, types.ModuleType, types.CodeType, types.FrameType,
    types.GeneratorType,
)  # fmt: skip
_OURS = ("fitcore.optimizers", "fitcore.hooks")  # of fitcore's own objects those that may hold what users gave
_LIBRARIES = {"keras", "tensorflow", "numpy", "fitcore", "torch", "jax", "scipy", "pandas", "matplotlib", "builtins"}
_WRAPPERS = "tensorflow.python.trackable"  # what lists and dicts become as attributes
_NOT_FOLLOWED = ("_fitcore_engine",)  # attributes; the trainings that are undone make one of their own


class Snapshot:
    """What these objects lead to, as it is now, and the random generators of the process.

    Args:
      roots: where to begin.
      but: what is not looked into, since no training writes to it: its data.
    """

    def __init__(self, roots: Iterable[Any], but: Iterable[Any] = ()) -> None:
        self._undo: list[Undo] = []
        self._known: set[int] = set()  # ids of handles
        self._held = list(reached(roots, but))  # keeps them, and thus their ids
        for value in self._held:
            self._undo += _undoing(value)
            self._known |= {id(each.handle) for each in _copies(value)}
        self._random, self._keras = randomness.state(), keras_private.keras_globals()

    def add_captured(self, graphs: Iterable[tf.Graph]) -> None:
        """Variables that these traced programs write, and to which nothing else leads."""
        for graph in graphs:
            for variable in keras_private.captured_by(graph):
                if id(variable.handle) not in self._known:
                    self._known.add(id(variable.handle))
                    self._undo.append(functools.partial(variable.assign, variable.read()))

    def put_back(self) -> None:
        """Put everything back; as often as needed."""
        for undo in self._undo:
            undo()
        self._keras()
        randomness.load_state(self._random)


def reached(roots: Iterable[Any], but: Iterable[Any] = ()) -> Iterator[Any]:
    """These objects and all that they lead to, each once, always in the same order."""
    seen: dict[int, Any] = {id(each): each for each in but}
    left: deque[Any] = deque(roots)
    while left:
        value = left.popleft()
        if id(value) in seen or _is_kind(value, _NOTHING_IN_THEM):
            continue
        seen[id(value)] = value
        yield value
        left.extend(_parts(value))


def _is_kind(value: Any, kinds: tuple[type, ...]) -> bool:
    """As `isinstance`, without asking the object, which may be a proxy of another."""
    return issubclass(type(value), kinds)


def _parts(value: Any) -> Iterator[Any]:
    """What an object holds."""
    if _is_kind(value, (tf.Variable, np.ndarray, *_TABLES, *_GENERATORS)):
        return
    if _is_kind(value, (dict, types.MappingProxyType)):
        yield from list(value.values())
    elif _is_kind(value, (list, tuple, deque)):
        yield from list(value)
    elif _is_kind(value, (set, frozenset)):
        yield from sorted(value, key=lambda each: (type(each).__name__, str(getattr(each, "name", ""))))
    elif _is_kind(value, (functools.partial,)):
        yield from (value.func, value.args, value.keywords)
    elif _is_kind(value, (types.MethodType,)):
        yield from (value.__self__, value.__func__)
    elif _is_kind(value, (staticmethod, classmethod)):
        yield value.__func__
    elif _is_kind(value, (property,)):
        yield from (value.fget, value.fset)
    elif _is_kind(value, (types.FunctionType,)):
        yield from _cells(value).values()
        yield from (value.__defaults__, value.__kwdefaults__)
        yield from _globals(value).values()
    elif _is_kind(value, (tf.random.Generator,)):
        yield value.state
        return
    elif _is_traced(value):
        yield value.python_function
        return
    elif _library(type(value)) == "tensorflow" and hasattr(value, "__wrapped__"):  # around a user's dict or tuple
        yield value.__wrapped__
        return
    if isinstance(value, type):
        yield from [] if _library(value) else list(vars(value).values())
    elif _is_looked_into(value):
        yield from (held for name, held in _attributes(value).items() if name not in _NOT_FOLLOWED)
        yield from _slots(value).values()
        yield from (kind for kind in type(value).__mro__ if not _library(kind))


def _undoing(value: Any) -> Iterator[Undo]:
    """Calls that give an object back what it holds now."""
    if _is_kind(value, (tf.Variable,)):
        for each in _copies(value):
            yield functools.partial(each.assign, tf.identity(each))
        return
    if _is_kind(value, (np.ndarray,)):
        if value.flags.writeable:
            yield functools.partial(np.copyto, value, value.copy())
        return
    elif _is_kind(value, _TABLES):
        keys, values = (np.array(part) for part in value.export())
        yield lambda: tf.raw_ops.LookupTableImportV2(
            table_handle=value.resource_handle,
            keys=tf.constant(keys.tolist(), value.key_dtype, keys.shape),
            values=tf.constant(values.tolist(), value.value_dtype, values.shape),
        )
    elif _is_kind(value, (random.Random,)):
        yield functools.partial(value.setstate, value.getstate())
    elif _is_kind(value, (np.random.RandomState,)):
        yield functools.partial(value.set_state, value.get_state(legacy=False))
    elif _is_kind(value, (np.random.Generator,)):
        yield functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    elif _is_kind(value, (dict,)):
        yield functools.partial(_set_dict, value, dict(value))
    elif _is_kind(value, (list,)):
        yield functools.partial(list.__setitem__, value, slice(None), list.__getitem__(value, slice(None)))
    elif _is_kind(value, (set, deque)):
        yield functools.partial(_set_others, value, list(value))
    elif _is_kind(value, (types.FunctionType,)):
        yield functools.partial(_set_function, value, _cells(value), _globals(value), dict(vars(value)))
        return
    elif _is_traced(value):
        yield keras_private.untraced(value)
        return
    if isinstance(value, type):
        if not _library(value):
            yield functools.partial(_set_class, value, dict(vars(value)))
    elif _is_looked_into(value) and (_attributes(value) or hasattr(value, "__dict__")):
        yield functools.partial(_set_dict, object.__getattribute__(value, "__dict__"), dict(_attributes(value)))
    if _is_looked_into(value):
        yield from (functools.partial(_set_slot, value, name, held) for name, held in _slots(value).items())


def _same(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> bool:
    return len(now) == len(before) and all(a is b for a, b in zip(now, before)) and all(now[key] is before[key] for key in now)


def _set_dict(held: dict[Any, Any], before: Mapping[Any, Any]) -> None:
    if not _same(held, before):
        kind: Any = OrderedDict if isinstance(held, OrderedDict) else dict  # past what a class of Keras's would track
        kind.clear(held)
        kind.update(held, before)


def _set_others(held: Any, before: list[Any]) -> None:
    kind: Any = set if isinstance(held, set) else deque
    kind.clear(held)
    (set.update if kind is set else deque.extend)(held, before)


def _set_function(
    function: types.FunctionType, cells: Mapping[str, Any], names: Mapping[str, Any], attributes: Mapping[str, Any]
) -> None:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if name in cells and _cells(function).get(name) is not cells[name]:
            cell.cell_contents = cells[name]
    for name, held in names.items():
        if function.__globals__.get(name) is not held:
            function.__globals__[name] = held
    _set_dict(vars(function), attributes)


def _set_class(kind: type, before: Mapping[str, Any]) -> None:
    for name in [name for name in vars(kind) if name not in before]:
        with contextlib.suppress(AttributeError, TypeError):
            delattr(kind, name)
    for name, held in before.items():
        if vars(kind).get(name) is not held:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(kind, name, held)


def _set_slot(value: Any, name: str, held: Any) -> None:
    if getattr(value, name, None) is not held:
        object.__setattr__(value, name, held)


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes that are there, without a property being asked."""
    try:
        attributes: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:  # it has slots alone
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _slots(value: Any) -> dict[str, Any]:
    found = {}
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if isinstance(vars(kind).get(name), types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # it has not been set
                    found[name] = getattr(value, name)
    return found


def _cells(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with contextlib.suppress(ValueError):  # empty so far
            found[name] = cell.cell_contents
    return found


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a user's function names."""
    if _is_library(function.__module__):
        return {}
    return {name: function.__globals__[name] for name in _named(function.__code__) if name in function.__globals__}


def _named(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _named(each)


def _is_traced(value: Any) -> bool:
    """Whether it is a `tf.function`."""
    return _library(type(value)) == "tensorflow" and hasattr(value, "python_function")


def _is_looked_into(value: Any) -> bool:
    """Whether its attributes may lead to what a training changes."""
    match _library(type(value)):
        case "tensorflow":
            kinds = (tf.Module, tf.train.ExponentialMovingAverage)
            return _is_kind(value, kinds) or type(value).__module__.startswith(_WRAPPERS)
        case "fitcore":
            return type(value).__module__.startswith(_OURS)
        case "keras" | "":
            return True
        case library:
            return library in ("types", "argparse")


def _library(kind: type) -> str:
    """The library that a class is of; empty for a user's, or one that builds on Keras."""
    return _is_library(kind.__module__)


def _is_library(module: Any) -> str:
    name = str(module).partition(".")[0]
    return name if name in _LIBRARIES or name in sys.stdlib_module_names - {"__main__"} else ""


def _copies(value: Any) -> list[Any]:
    """A TensorFlow variable, or, if it has a copy on each replica, these; nothing for any other object."""
    if not _is_kind(value, (tf.Variable,)):
        return []
    return list(value.values) if isinstance(value, tf.distribute.DistributedValues) else list(components(value))
