"""The gradient noise measured at each step, which must not change a bit."""

from __future__ import annotations

from typing import Any

import keras

from benchmarks.parity.setup import CASES, Case, Setup
from fitcore import GradientNoise

AUTO, SPLIT, SOMETIMES = GradientNoise(), GradientNoise("split", splits=2), GradientNoise(every=3, hessian_every=4)

MEASURED: dict[str, tuple[str, GradientNoise]] = {
    f"noise_{name}": (name, AUTO)
    for name in (
        "mlp_dropout",
        "mlp_dropout_partial_batch",
        "cnn_batchnorm",
        "cnn_batchnorm_partial_batch",
        "lstm_dropout",
        "gru",
        "stateful_rnn",
        "attention_dropout",
        "embedding_sparse_gradients",
        "dict_inputs_and_outputs",
        "subclassed_lazily_built",
        "own_compute_loss",
        "add_loss_and_activity_regularizer",
        "regularizers",
        "sample_weight",
        "mixed_float16",
        "dataset_of_unknown_size",
    )
} | {
    "noise_every_third_step": ("cnn_batchnorm", SOMETIMES),
    "noise_split_mlp_dropout": ("mlp_dropout", SPLIT),
    "noise_split_cnn_batchnorm": ("cnn_batchnorm_partial_batch", SPLIT),
}


def measured(case: Case, noise: GradientNoise) -> Setup:
    """The case as it is for Keras; fitcore measures the noise while training it."""
    model, arguments = case.build()
    assert isinstance(arguments, dict), case.name

    def run(by: Any) -> dict[str, Any]:
        if by is keras.Model:
            return dict(by.fit(model, verbose=0, **arguments).history)
        history = by.fit(model, verbose=0, noise=noise, **arguments)
        if not len(history.noise.trace):
            raise RuntimeError("Nothing was measured.")
        return dict(history.history)

    return model, run


for name, (case_name, noise) in MEASURED.items():
    how = {AUTO: "", SPLIT: " by splitting", SOMETIMES: " every third step, with Hessian-vector products every fourth"}[noise]
    text = f"{CASES[case_name].text}, the noise measured{how}"
    theme = (__doc__ or "").rstrip(".")
    CASES[name] = Case(name, lambda case=CASES[case_name], noise=noise: measured(case, noise), text, theme)  # type: ignore[misc]
