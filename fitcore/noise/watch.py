"""Noting a forward pass: which layers were called on what, and where each weight was used.

While a step is traced, each layer's `call` (and what its rule wants watched) is replaced, on that one object, by a `Noted`
that notes arguments and result and is otherwise the same. No op is moved, and none is added but the one named below.

Under a strategy TensorFlow traces each replica in a thread of its own, and goes from one to the next wherever something is
summed over them, also in mid-pass (`BatchNormalization(synchronized=True)`): each thread's watch notes its own calls alone.

Where a weight was used follows from the graph: the ops that take its handle. So a weight that somebody uses outside its own
layer, through a tied kernel or in a loss, is found, not guessed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise.calls import Call, rule_of

_here = threading.local()  # .watch: whose forward pass is being traced in this thread


class Watch:
    """Notes the calls of one forward pass; used once per trace."""

    def __init__(self, model: Any) -> None:
        self.calls: list[Call] = []
        self.graph: Any = None
        self.forward_end = 0  # ops made until the forward pass ended
        self._model = model
        self._stack: list[Call] = []

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Note what is called inside."""
        self.graph = tf.compat.v1.get_default_graph()
        _here.watch = self
        with contextlib.ExitStack() as undo:
            for layer in keras_private.all_layers(self._model):
                rule = rule_of(layer)
                for name in ("call", *(rule.watch if rule is not None else ())):
                    if getattr(layer, name, None) is not None:
                        undo.enter_context(noted(layer, name))
            yield
        self.forward_end = self.ops()

    def ops(self) -> int:
        """How many ops the graph has."""
        return len(self.graph.get_operations())

    def call(self, layer: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A layer's call, noted."""
        if tf.compat.v1.get_default_graph() is not self.graph:
            return method(*args, **kwargs)  # inside a loop's body or a function: its tensors mean nothing outside
        noted = Call(layer, args, kwargs, first_op=self.ops(), parent=self._stack[-1] if self._stack else None)
        self._stack.append(noted)
        losses = keras_private.added_losses(layer)
        try:
            noted.output = method(*args, **kwargs)
        finally:
            self._stack.pop()
        noted.last_op = self.ops()
        noted.adds_loss = keras_private.added_losses(layer) != losses
        self.calls.append(noted)
        return noted.output

    def part(self, layer: Any, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a layer's call calls, noted."""
        current = self._stack[-1] if self._stack else None
        # A stateful RNN hands over variables, which it changes afterwards: their values are read here, the only op that
        # noting ever adds.
        noted_args, noted_kwargs = keras.tree.map_structure(_read, (args, kwargs))
        result = method(*args, **kwargs)
        if current is None or current.layer is not layer or tf.compat.v1.get_default_graph() is not self.graph:
            return result
        if name == "inner_loop":  # the masks that were drawn before the loop; asking for them again draws nothing
            cell = layer.cell
            current.notes["dropout_masks"] = (cell.get_dropout_mask(None), cell.get_recurrent_dropout_mask(None))
            current.notes[name] = ((noted_args, noted_kwargs), result)
        else:
            current.notes[name] = (noted_args, result)
        return result


def _read(value: Any) -> Any:
    return tf.convert_to_tensor(value) if isinstance(value, (keras.Variable, tf.Variable)) else value


class Noted:
    """A layer's method in its place: called, it is noted by the watch of the thread."""

    def __init__(self, layer: Any, name: str) -> None:
        self.method = getattr(layer, name)
        self.users = 0  # threads that watch it now
        self.on_object = name in vars(layer)  # else it is the class's
        self._layer, self._name = layer, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._name == "call":
            return _here.watch.call(self._layer, self.method, args, kwargs)
        return _here.watch.part(self._layer, self._name, self.method, args, kwargs)


@contextlib.contextmanager
def noted(layer: Any, name: str) -> Iterator[None]:
    """Replace a layer's method for a while. Past Keras's `__setattr__`, which would track it."""
    attributes = vars(layer)
    there = attributes.get(name)
    replacement = there if isinstance(there, Noted) else Noted(layer, name)
    attributes[name] = replacement
    replacement.users += 1
    try:
        yield
    finally:
        replacement.users -= 1
        if not replacement.users and replacement.on_object:
            attributes[name] = replacement.method
        elif not replacement.users:
            del attributes[name]


@dataclass(frozen=True)
class Uses:
    """Where one weight was used in a step.

    Attributes:
      calls: the innermost noted call around each use, once each.
      elsewhere: whether it was also used outside any noted call, for example in a loss.
    """

    calls: Sequence[Call]
    elsewhere: bool


def uses(watch: Watch, variable: Any, numbers: dict[int, int]) -> Uses:
    """Where `variable` was used, its regularizer aside. `numbers`: of the ops up to the loss, by their ids."""
    handle = (variable.value if isinstance(variable, keras.Variable) else variable).handle
    placeholder = watch.graph.capture(handle)
    found: dict[int, Call] = {}
    elsewhere = False
    for op in placeholder.consumers():
        number = numbers.get(id(op))
        if number is None:
            continue
        if number >= watch.forward_end:
            elsewhere |= getattr(variable, "regularizer", None) is None
            continue
        around = [call for call in watch.calls if call.first_op <= number < call.last_op]
        if not around:
            elsewhere = True
        else:
            innermost = min(around, key=lambda call: call.last_op - call.first_op)
            found[id(innermost)] = innermost
    return Uses(list(found.values()), elsewhere)
