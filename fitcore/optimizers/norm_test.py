"""SGD that gathers examples until their mean gradient is worth a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise import GradientNoise
from fitcore.optimizers.measured import Measured, check_keywords, check_measured


@keras.saving.register_keras_serializable("fitcore")
class NormTestSGD(keras.optimizers.SGD):
    """SGD with a batch that grows as the gradient shrinks (Byrd et al. 2012, doi:10.1007/s10107-012-0572-5, section 3).

    Batches are gathered, the weights standing still, until the norm test says that their mean gradient is probably one of
    descent; then SGD makes its update with that mean and gathering begins anew:

        sum_j Var(g_i)_j / N  <=  theta^2 |g|^2

    over the N examples gathered, g_i their gradients and g the mean of all. The variance is that of all N examples: what the
    step measured within each batch, and how far the batches' means lie apart. A batch given by fit is thus the least that an
    update can use, `most_batches` of them the most.

    `iterations` and schedules count batches, not updates, as under Keras's gradient accumulation.

    A Keras optimizer: give it to `compile` and train by `fitcore.fit`, or to a `fitcore.Engine`.

    Args:
      learning_rate, momentum, nesterov: as for `keras.optimizers.SGD`, per update.
      theta: the relative error of the gradient that is accepted: its standard deviation over its norm.
      most_batches: make the update with so many, whatever the test says.
      noise: how to measure; `every` must be 1.
      keywords: weight decay, clipping, averages: as for `keras.optimizers.SGD`, at updates.

    Attributes:
      examples, batches: gathered since the last update, variables.
      updates: how many there have been, a variable.
      update_examples: how many examples the last one used, a variable.

    Raises:
      ValueError: for values that make no sense, and where it is not given what it needs: outside of fitcore's fit, or inside a
        `LossScaleOptimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        theta: float = 1.0,
        most_batches: int = 64,
        momentum: float = 0.0,
        nesterov: bool = False,
        noise: GradientNoise | None = None,
        name: str = "norm_test_sgd",
        **keywords: Any,
    ) -> None:
        if not theta > 0:
            raise ValueError(f"`theta` must be positive. Received: theta={theta!r}")
        if isinstance(most_batches, bool) or not isinstance(most_batches, int) or most_batches < 1:
            raise ValueError(f"`most_batches` must be an int of at least 1. Received: most_batches={most_batches!r}")
        if noise is not None and noise.every != 1:
            raise ValueError(f"`noise` must be measured at each step. Received: every={noise.every}")
        check_keywords(keywords, "gradient_accumulation_steps", "loss_scale_factor")
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, name=name, **keywords)
        self.theta = float(theta)
        self.most_batches = most_batches
        self.noise = noise or GradientNoise(per_layer=False)
        self.examples = self.add_variable((), dtype="float64", name="examples")
        self.batches = self.add_variable((), dtype="int64", name="batches")
        self.updates = self.add_variable((), dtype="int64", name="updates")
        self.update_examples = self.add_variable((), dtype="float64", name="update_examples")
        self.squares = self.add_variable((), dtype="float64", name="squares")  # sum of (g_i - g_batch)^2 + n |g_batch|^2

    def build(self, variables: Sequence[Any]) -> None:
        if not self.built:
            super().build(variables)
            self.sums = self.add_optimizer_variables(variables, "sum")

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]], measured: Measured | None = None) -> Any:
        gradients, variables = zip(*grads_and_vars)
        self.apply(gradients, variables, measured)
        return self.iterations

    def apply(self, grads: Any, trainable_variables: Any = None, measured: Measured | None = None) -> None:
        check_measured(self, measured)
        assert measured is not None
        variables = list(trainable_variables)
        self.build(variables)
        pairs = [(tf.convert_to_tensor(g), v) for g, v in zip(grads, variables) if g is not None]
        used = [v for _, v in pairs]
        sums = [self.sums[keras_private.variable_index(self, v)] for v in used]

        n = measured.examples
        self.batches.assign_add(1)
        self.examples.assign_add(n)
        self.squares.assign_add(measured.trace * tf.maximum(n - 1, 0.0) + n * _norm_sq([g for g, _ in pairs]))
        for total, (gradient, _) in zip(sums, pairs):
            total.assign_add(tf.cast(n, gradient.dtype) * gradient)

        gathered = self.examples.value
        mean = [total.value / tf.cast(gathered, total.value.dtype) for total in sums]
        norm_sq = _norm_sq(mean)
        variance = (self.squares.value - gathered * norm_sq) / tf.maximum(gathered - 1, 1.0)
        passes = (gathered > 1) & (variance / gathered <= self.theta**2 * norm_sq)

        def update() -> None:
            super(NormTestSGD, self).apply(mean, used)
            self.updates.assign_add(1)
            self.update_examples.assign(gathered)
            for state in (self.batches, self.examples, self.squares, *sums):
                state.assign(tf.zeros_like(state.value))

        tf.cond(passes | (self.batches.value >= self.most_batches), update, lambda: keras_private.count_step(self))

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["gradient_accumulation_steps"], config["loss_scale_factor"]
        return config | {"theta": self.theta, "most_batches": self.most_batches}


def _norm_sq(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.cast(tf.reduce_sum(tf.square(tensor)), tf.float64) for tensor in tensors])
