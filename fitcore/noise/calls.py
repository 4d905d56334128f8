"""What is noted of a layer's call while a step's forward pass is traced, and the registry of rules that make use of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from fitcore.noise.factors import Each, Factor


@dataclass(eq=False)
class Call:
    """One call of a layer in the forward pass. Its tensors are those of the pass itself: noting them adds no op.

    Attributes:
      layer: the layer.
      args, kwargs: what `layer.call` was given.
      output: what it returned.
      notes: by attribute name, the (arguments, result) of a method that a rule wants watched: "activation", "inner_loop".
        A rule's `taps` may add what its `factors` need, and as "how" a label for this call.
      first_op, last_op: the range of the graph's ops that were made during the call.
      parent: the call during which this one was made.
      adds_loss: whether the layer called `add_loss`.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    notes: dict[str, Any] = field(default_factory=dict)
    first_op: int = 0
    last_op: int = 0
    parent: Call | None = None
    adds_loss: bool = False

    @property
    def inputs(self) -> Any:
        """The layer's first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    @property
    def pre_activation(self) -> Any:
        """What the layer's activation was given; the output if it has none."""
        noted = self.notes.get("activation")
        return self.output if noted is None else noted[0][0]

    def rows(self, cut: Callable[[Any], Any]) -> Call:
        """The same call, of some of the batch's rows: those that `cut` keeps of a tensor."""
        known: dict[int, Any] = {}  # a tensor that is noted twice stays one tensor

        def kept(tensor: Any) -> Any:
            if id(tensor) not in known:
                known[id(tensor)] = cut(tensor)
            return known[id(tensor)]

        return dataclasses.replace(
            self,
            args=keras.tree.map_structure(kept, self.args),
            kwargs=keras.tree.map_structure(kept, self.kwargs),
            output=keras.tree.map_structure(kept, self.output),
            notes={name: keras.tree.map_structure(kept, noted) for name, noted in self.notes.items()},
        )


def cut_rows(tensor: Any, rows: slice, batch: int | None) -> Any:
    """These rows of what has the batch's rows; anything else as it is."""
    if not isinstance(tensor, tf.Tensor) or not tensor.shape.rank or tensor.shape[0] != batch:
        return tensor
    if rows.step is None or (isinstance(rows.step, int) and rows.step == 1):
        kept = tensor[rows]
    else:  # whole rows are copied at once, which a slice with a step does value by value
        size = tf.shape(tensor)[0]
        end = size if rows.stop is None else tf.minimum(rows.stop, size)
        kept = tf.gather(tensor, tf.range(0 if rows.start is None else rows.start, end, rows.step))
    kept.set_shape([None if kept.shape.rank is None else kept.shape[0], *tensor.shape[1:]])
    return kept


@dataclass(frozen=True)
class Rule:
    """How one class of layers gives its per-example gradients.

    Attributes:
      layer: the class. Subclasses that keep its `call` are included.
      weights: attribute names of the weights it covers, with dots for those of a part ("cell.kernel").
      taps: the tensors of a call whose gradients the rule needs.
      factors: (call, those gradients) -> by weight name, a Factor, or a tensor [n, *shape]. A gradient is None where
        nothing depends on the tensor, but not all of them are.
      watch: methods of the layer to note besides `call`.
      applies: whether it can, as this layer was set up and called.
      whole_batch: whether a row's gradient can't be had without the other rows at hand.
      label: how it is done, in a few words, for `history.noise.how`.
    """

    layer: type[keras.Layer]
    weights: tuple[str, ...]
    taps: Callable[[Call], Sequence[Any]]
    factors: Callable[[Call, Sequence[Any]], Mapping[str, Factor]]
    watch: tuple[str, ...] = ()
    applies: Callable[[Call], bool] = lambda call: True
    label: str = "exact"
    whole_batch: bool = False

    def variables(self, layer: Any) -> dict[int, str]:
        """The weights this rule covers in `layer`: name by id of the variable."""
        found = {}
        for name in self.weights:
            value = layer
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is not None:
                found[id(value)] = name
        return found


RULES: dict[type, Rule] = {}


def rule_of(layer: Any) -> Rule | None:
    """The rule for a layer: of its class, or of one whose `call` it inherits."""
    kind = type(layer)
    for base in kind.__mro__:
        if base in RULES:
            return RULES[base] if kind.call is base.call and not keras_quantized(layer) else None  # type: ignore[attr-defined]
    return None


def keras_quantized(layer: Any) -> bool:
    """Whether the layer computes with quantized weights."""
    return getattr(layer, "quantization_mode", None) is not None


def per_example(layer: type[keras.Layer], weights: Sequence[str], tap: str = "output") -> Callable[[Any], Any]:
    """Register a rule for a class of layers: its per-example gradients from its inputs and the gradient at its output.

        @fitcore.per_example(Scale, weights=("scale",))
        def scale_gradients(layer, inputs, delta):
            return {"scale": inputs * delta}          # [n, *shape of the weight]

    What the function returns for row i must be that row's contribution: summed over the rows it is the batch's gradient.
    It is traced into the training step once per call of the layer.

    Args:
      layer: the class. Subclasses are included as long as they keep its `call`.
      weights: attribute names of the weights it covers. Other weights of the layer are measured as without a rule.
      tap: "output", or "pre_activation" for what the layer hands to its `activation`: where `delta` is taken.

    Raises:
      ValueError: `tap` is neither.
    """
    if tap not in ("output", "pre_activation"):
        raise ValueError(f'`tap` must be "output" or "pre_activation". Received: tap={tap!r}')

    def register(function: Callable[[Any, Any, Any], Mapping[str, Any]]) -> Any:
        def factors(call: Call, deltas: Sequence[Any]) -> dict[str, Factor]:
            given = function(call.layer, call.inputs, deltas[0])
            return {name: Each.of(value) if isinstance(value, tf.Tensor) else value for name, value in given.items()}

        watch = ("activation",) if tap == "pre_activation" else ()
        RULES[layer] = Rule(layer, tuple(weights), lambda call: [getattr(call, tap)], factors, watch, label="rule of its own")
        return function

    return register
