"""Names for schedules, optimizers, stop hooks and noise measurements, and the specs that make them: `cosine:10000,alpha=0.1`.

    @fitcore.register("schedule", "sawtooth")      # in an experiment module; a class or a function
    def sawtooth(period: int, lowest: float = 0.1): ...

    fitcore.make("schedule", "sawtooth:8,lowest=0.5")      # what --schedule=sawtooth:8,lowest=0.5 does

A spec is a name with its parameters, each after a colon, by place or by name: `cosine:10000:alpha=0.1`. Before a parameter
by name a comma will do as well: `adamw:learning_rate=1e-3,weight_decay=0.01`. Any other comma begins the next item, where
several make sense: `warmup:500,cosine:10000`. Values are numbers, true, false, none, lists of these in brackets, and all
else is text. Upper case and underscores in names don't matter: `AdamW`, `adam_w` and `adamw` are one.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

KINDS = ("schedule", "optimizer", "stop", "noise")

Factory = TypeVar("Factory", bound=Callable[..., Any])

_factories: dict[str, dict[str, Callable[..., Any]]] = {kind: {} for kind in KINDS}
# (the objects that a spec's items made) -> one object; a kind without it takes one item
combine: dict[str, Callable[[list[Any]], Any]] = {}


def register(kind: str, name: str) -> Callable[[Factory], Factory]:
    """Decorator: give a class or function a name in specs. Its parameters are the spec's, its docstring's first line the help.

    Args:
      kind: "schedule", "optimizer", "stop" (makes a hook) or "noise" (makes a `GradientNoise`).
      name: letters, digits and underscores.

    Raises:
      ValueError: there is no such kind, or the name is taken by something else.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
    if not name.isidentifier():
        raise ValueError(f"`name` must be made of letters, digits and underscores. Received: name={name!r}")

    def add(factory: Factory) -> Factory:
        taken = _find(kind, name)
        # A module that is run and imported too defines the same thing twice.
        if taken is not None and getattr(taken, "__qualname__", taken) != getattr(factory, "__qualname__", factory):
            raise ValueError(f"`name` must be new. Received: name={name!r}, which is {taken!r} already.")
        _factories[kind][name] = factory
        return factory

    return add


def make(kind: str, spec: str) -> Any:
    """What a spec describes.

    Raises:
      ValueError: nothing has that name (the known ones are listed), a parameter is wrong (those there are are listed), or
        what its factory raises.
    """
    made = []
    for factory, bound in check(kind, spec):
        try:
            made.append(factory(*bound.args, **bound.kwargs))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{kind} {spec!r}: {error}") from error
    return made[0] if len(made) == 1 else combine[kind](made)


def check(kind: str, spec: str) -> list[tuple[Callable[..., Any], inspect.BoundArguments]]:
    """The factories that a spec names, with their arguments, not called yet. Raises as `make`."""
    found = []
    for name, positional, named in _items(spec):
        factory = _find(kind, name)
        if factory is None:
            close = difflib.get_close_matches(_plain(name), [_plain(known) for known in _factories[kind]], 1, 0.5)
            hint = "".join(f" Did you mean {known!r}?" for known in _factories[kind] if _plain(known) in close)
            raise ValueError(f"there is no {kind} named {name!r}.{hint} There are: {', '.join(sorted(_factories[kind]))}.")
        signature = _signature(factory)
        try:
            bound = signature.bind(*positional, **named)
        except TypeError as error:
            raise ValueError(f"{kind} {name!r}: {error}. Its parameters: {_described(signature)}.") from None
        for parameter in signature.parameters.values():
            if parameter.name in bound.arguments:
                value = _typed(kind, name, parameter, bound.arguments[parameter.name])
                bound.arguments[parameter.name] = value
        found.append((factory, bound))
    if len(found) > 1 and kind not in combine:
        raise ValueError(f"{spec!r} names {len(found)} things; --{kind} takes one.")
    return found


def names(kind: str) -> list[str]:
    """All names of a kind, sorted."""
    return sorted(_factories[kind])


def describe(kind: str) -> Iterator[str]:
    """For each thing of a kind a line with its parameters and defaults, and what its docstring says first."""
    for name, factory in sorted(_factories[kind].items()):
        about = (inspect.getdoc(factory) or "").split("\n", 1)[0]
        parameters = _described(_signature(factory))
        yield f"{name}({parameters}): {about}"


def _find(kind: str, name: str) -> Callable[..., Any] | None:
    return next((factory for known, factory in _factories[kind].items() if _plain(known) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    """Without *args and **kwargs, which Keras's optimizers take in order to refuse them."""
    signature = inspect.signature(factory)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.kind not in variadic])


def _described(signature: inspect.Signature) -> str:
    return ", ".join(
        p.name if p.default is inspect.Parameter.empty else f"{p.name}={p.default}" for p in signature.parameters.values()
    )


def _typed(kind: str, name: str, parameter: inspect.Parameter, value: Any) -> Any:
    """The value as its parameter's default or annotation wants it: 1 for a float is 1.0, and text is no number."""
    default, annotation = parameter.default, str(getattr(parameter.annotation, "__name__", parameter.annotation))
    kinds = {"float": float, "int": int, "bool": bool}
    wanted = type(default) if type(default) in kinds.values() else kinds.get(annotation.removesuffix(" | None"))
    if wanted is None or (value is None and annotation.endswith("None")):
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        article = "an" if wanted is int else "a"
        raise ValueError(f"{kind} {name!r}: `{parameter.name}` must be {article} {wanted.__name__}. Received: {value!r}")
    return value


def _items(spec: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """(name, values by place, values by name) of each item of a spec."""
    items: list[tuple[str, list[Any], dict[str, Any]]] = []
    for piece in _split(spec, ","):
        first, *rest = _split(piece, ":")
        if "=" in first:  # goes on with the item before
            rest = [first, *rest]
        elif first.strip().replace("-", "_").isidentifier():
            items.append((first.strip().replace("-", "_"), [], {}))
        else:
            raise ValueError(
                f"{first!r} in {spec!r} is no name. A spec is NAME:VALUE:PARAMETER=VALUE, for example cosine:1000."
            )
        if not items:
            raise ValueError(f"{spec!r} must begin with a name. Received {first!r} there.")
        name, positional, named = items[-1]
        for parameter in rest:
            key, equals, value = parameter.partition("=")
            if not equals:
                if named:
                    raise ValueError(f"{name!r} in {spec!r}: {parameter!r} by its place comes after a parameter by name.")
                positional.append(_value(parameter))
            elif key.strip() in named:
                raise ValueError(f"{name!r} in {spec!r} has {key.strip()!r} twice.")
            else:
                named[key.strip()] = _value(value)
    return items


def _split(text: str, separator: str) -> list[str]:
    """Split, but not inside brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _value(text: str) -> Any:
    """A Python value; lists become tuples, so that what they are in can be hashed."""
    text = text.strip()
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if text[:1] == "[" and text[-1:] == "]":
        return tuple(_value(element) for element in _split(text[1:-1], ",") if element.strip())
    try:
        number = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return number if isinstance(number, (int, float)) else text
