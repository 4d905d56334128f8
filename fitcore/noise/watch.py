"""Noting a forward pass: which layers were called on what, and where each weight was used.

While a step is traced, each layer's `call` (and what its rule wants watched) is replaced, on that one object, by a function
that notes arguments and result and is otherwise the same. No op is moved, and none is added but the one named below.

Where a weight was used follows from the graph: the ops that take its handle. So a weight that somebody uses outside its own
layer, through a tied kernel or in a loss, is found, not guessed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise.calls import Call, rule_of


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
        with contextlib.ExitStack() as undo:
            for layer in keras_private.all_layers(self._model):
                rule = rule_of(layer)
                undo.enter_context(keras_private.replaced(layer, "call", self._noting(layer, layer.call)))
                for name in rule.watch if rule is not None else ():
                    method = getattr(layer, name)
                    if method is not None:
                        undo.enter_context(keras_private.replaced(layer, name, self._noting_part(layer, name, method)))
            yield
        self.forward_end = self.ops()

    def ops(self) -> int:
        """How many ops the graph has."""
        return len(self.graph.get_operations())

    def _noting(self, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            if tf.compat.v1.get_default_graph() is not self.graph:
                return call(*args, **kwargs)  # inside a loop's body or a function: its tensors mean nothing outside
            noted = Call(layer, args, kwargs, first_op=self.ops(), parent=self._stack[-1] if self._stack else None)
            self._stack.append(noted)
            losses = keras_private.added_losses(layer)
            try:
                noted.output = call(*args, **kwargs)
            finally:
                self._stack.pop()
            noted.last_op = self.ops()
            noted.adds_loss = keras_private.added_losses(layer) != losses
            self.calls.append(noted)
            return noted.output

        return noting

    def _noting_part(self, layer: Any, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
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

        return noting


def _read(value: Any) -> Any:
    return tf.convert_to_tensor(value) if isinstance(value, (keras.Variable, tf.Variable)) else value


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
