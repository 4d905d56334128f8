"""Optimizers that Keras lacks, and a cheaper form of the update of some that it has.

fused.py      SGD, Adam, AdamW and RMSprop of Keras, with fewer and larger ops and the same bits; used by default
in_xla.py     Adam and AdamW in the fast tier's XLA programs, where a gradient is sparse
measured.py   how the gradient noise of a step reaches its optimizer
adascale.py   AdaScaleSGD: a learning rate that follows the noise
norm_test.py  NormTestSGD: a batch that grows as the gradient shrinks
chain.py      Chain: gradient transformations, one after the other

One of one's own needs `build` and `apply_gradients`: `fitcore.step.Optimizer`.
"""

from fitcore.optimizers.adascale import AdaScaleSGD
from fitcore.optimizers.chain import (
    Chain,
    Transformation,
    add_decayed_weights,
    clip_by_global_norm,
    scale_by_adam,
    scale_by_schedule,
    trace,
)
from fitcore.optimizers.measured import Measured
from fitcore.optimizers.norm_test import NormTestSGD

__all__ = [
    "AdaScaleSGD",
    "Chain",
    "Measured",
    "NormTestSGD",
    "Transformation",
    "add_decayed_weights",
    "clip_by_global_norm",
    "scale_by_adam",
    "scale_by_schedule",
    "trace",
]
