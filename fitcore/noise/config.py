"""What to measure of the gradient noise, and how often."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

ESTIMATORS = ("auto", "per_example", "split", "replicas")
FORGOTTEN = 1e-9  # measurements whose weight in the running averages has faded to this are dropped


@dataclass(frozen=True)
class GradientNoise:
    """Measure the gradient noise while training: `fitcore.fit(..., noise=GradientNoise(...))`.

    Args:
      estimator: "per_example": each example's gradient, exactly, out of the backward pass that runs anyway; "split": the
        batch cut into `splits` micro-batches, a pass for each, works for everything; "auto": per example for every weight
        for which that can be done, split for the rest. `history.noise.how` says which was which. Under a `tf.distribute`
        strategy of several replicas "replicas" stands in the place of "split", by itself and for the rest of "auto": each
        replica's gradient, which is there anyway, is a micro-batch's. See `fitcore.noise.over_replicas`.
      every: measure each so many steps; the steps between cost nothing (with `jit_compile=True` as much as the others).
      splits: micro-batches per batch of the split estimator, at least 2.
      hessian_every: also measure, each so many steps, what the full noise scale B_noise = tr(H Sigma)/(G^T H G) is made of, by
        Hessian-vector products: about 15 passes over a third of the batch. 0: never.
      examples: for layers with an axis of time or space, and for the fallback, measure at most so many of a batch's rows,
        evenly spaced, each of them exactly; `history.noise.how` says so. Of a larger batch, all rows would cost these layers
        about half a step; some are as unbiased as long as rows come in random order, and less sharp: with 64 a step's
        tr(Sigma) of such a layer has a standard error of an eighth of the spread of the examples' squared norms. Layers
        without such an axis, whose norms cost next to nothing, are measured on all rows anyhow. None: all rows everywhere.
      evidence: also record, at each measured step, the evidence-based stopping criterion (Mahsereci et al. 2017,
        arXiv:1703.09580), as "noise/evidence" and `history.noise.evidence`: positive where the gradient is no larger than its
        noise alone would make it. `fitcore.noise.evidence` has the formula. It needs the variance of each entry of each
        weight: multiplied out for layers with an axis of time or space, and of all rows, whatever `examples` says. Weights
        measured by splitting are left out of it.
      per_layer: record each layer by itself too.
      decay: weight of a measurement in the running averages, relative to the next one: 0.99 averages over some hundred.
        1: over all so far.
      confidence: of the intervals.
      directory: write TensorBoard events there too, with a dashboard; `fitcore.hooks.noise_events.NoiseEvents` says which.

    Raises:
      ValueError: for values that make no sense.
    """

    estimator: str = "auto"
    every: int = 1
    splits: int = 4
    hessian_every: int = 0
    examples: int | None = 64
    evidence: bool = False
    # What only concerns the host makes no other program of the step.
    per_layer: bool = field(default=True, compare=False)
    decay: float = field(default=0.99, compare=False)
    confidence: float = field(default=0.95, compare=False)
    directory: str | os.PathLike[str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            named = ", ".join(f'"{name}"' for name in ESTIMATORS[:-1])
            raise ValueError(f'`estimator` must be {named} or "{ESTIMATORS[-1]}". Received: estimator={self.estimator!r}')
        if self.evidence and self.estimator in ("split", "replicas"):
            raise ValueError(
                "`evidence=True` needs each example's gradient: estimator='auto' or 'per_example'. "
                f"Received: estimator={self.estimator!r}"
            )
        if self.every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={self.every}")
        if self.hessian_every < 0:
            raise ValueError(f"`hessian_every` must not be negative. Received: hessian_every={self.hessian_every}")
        if self.examples is not None and self.examples < 2:
            raise ValueError(f"`examples` must be at least 2. Received: examples={self.examples}")
        if self.splits < 2:
            raise ValueError(f"`splits` must be at least 2. Received: splits={self.splits}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"`decay` must be in (0, 1]. Received: decay={self.decay}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"`confidence` must be in (0, 1). Received: confidence={self.confidence}")

    def check(self, replicas: int) -> None:
        """Refuse what can't be measured on so many replicas.

        Raises:
          ValueError: names the argument of `GradientNoise`.
        """
        if replicas == 1 and self.estimator == "replicas":
            raise ValueError(
                "`noise`: `estimator='replicas'` compares the gradients of several replicas, and here there is one. With "
                "micro-batches in their place it is the same formula: estimator='split'."
            )
        if replicas > 1 and self.estimator == "split":
            raise ValueError(
                f"`noise`: `estimator='split'` is for one device. The gradients of {replicas} replicas are those of "
                "micro-batches already: estimator='replicas'."
            )
        if replicas > 1 and (self.evidence or self.hessian_every):
            refused = "evidence=True" if self.evidence else f"hessian_every={self.hessian_every}"
            raise ValueError(
                f"`noise`: `{refused}` is measured on one device only. Received: a strategy of {replicas} replicas"
            )

    @property
    def memory(self) -> int | None:
        """Steps after which the running averages have forgotten one; None: never."""
        decay = self.decay ** (1 / self.every)
        return None if decay == 1 else math.ceil(math.log(FORGOTTEN) / math.log(decay))
