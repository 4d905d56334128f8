"""Parity cases trained by fitcore with the gradient noise measured at each step: it must not change a bit.

Each is a case of benchmarks/parity_cases.py under the name `noise_...`; Keras trains it as ever, fitcore measures.
"""

from __future__ import annotations

import functools
from typing import Any

import keras

import fitcore
from benchmarks.parity_cases import CASES
from benchmarks.parity_models import Case
from fitcore import GradientNoise

AUTO, SPLIT = GradientNoise(), GradientNoise("split", splits=2)
SOMETIMES = GradientNoise(every=3)

MEASURED: dict[str, tuple[str, GradientNoise]] = {
    "noise_mlp_dropout": ("mlp_dropout", AUTO),
    "noise_mlp_dropout_partial_batch": ("mlp_dropout_partial_batch", AUTO),
    "noise_cnn_batchnorm": ("cnn_batchnorm", AUTO),
    "noise_cnn_batchnorm_partial_batch": ("cnn_batchnorm_partial_batch", AUTO),
    "noise_lstm_dropout": ("lstm_dropout", AUTO),
    "noise_gru": ("gru", AUTO),
    "noise_stateful_rnn": ("stateful_rnn", AUTO),
    "noise_attention_dropout": ("attention_dropout", AUTO),
    "noise_embedding_sparse_gradients": ("embedding_sparse_gradients", AUTO),
    "noise_dict_inputs_and_outputs": ("dict_inputs_and_outputs", AUTO),
    "noise_subclassed_lazily_built": ("subclassed_lazily_built", AUTO),
    "noise_own_compute_loss": ("own_compute_loss", AUTO),
    "noise_add_loss_and_activity_regularizer": ("add_loss_and_activity_regularizer", AUTO),
    "noise_regularizers": ("regularizers", AUTO),
    "noise_sample_weight": ("sample_weight", AUTO),
    "noise_mixed_float16": ("mixed_float16", AUTO),
    "noise_dataset_of_unknown_size": ("dataset_of_unknown_size", AUTO),
    "noise_every_third_step": ("cnn_batchnorm", SOMETIMES),
    "noise_split_mlp_dropout": ("mlp_dropout", SPLIT),
    "noise_split_cnn_batchnorm": ("cnn_batchnorm_partial_batch", SPLIT),
}

NOISE_CASES = {name: Case(name, CASES[case].build) for name, (case, _) in MEASURED.items()}


def fit_of(name: str) -> Any:
    """The fit that a case is about: `fitcore.fit`, and for those above with the noise measured."""
    if name not in MEASURED:
        return fitcore.fit
    return functools.partial(_measuring, MEASURED[name][1])


def _measuring(noise: GradientNoise, model: keras.Model, **arguments: Any) -> keras.callbacks.History:
    history = fitcore.fit(model, noise=noise, **arguments)
    if not len(history.noise.trace):
        raise RuntimeError("Nothing was measured.")
    return history
