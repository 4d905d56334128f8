"""All activations, layers, optimizers, losses and metrics that Keras exports, with arguments for one of each.

Arguments are source text, which a reader sees in PARITY.md as it is evaluated here. What an older Keras hasn't got stays in the
tables: `exported` says what the installed one has, and tests/test_kinds.py that each of that is in a table or in `LEFT_OUT`.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf
from keras import layers

# By what goes in; see benchmarks/parity/kinds.py. "raw": the data themselves, since no gradient could pass these layers.
LAYERS: dict[str, dict[str, str]] = {
    "vectors": {
        "Activation": "'relu'", "ActivityRegularization": "1e-3, 1e-3", "Dense": "3, 'relu'", "ELU": "", "Identity": "",
        "Lambda": "lambda x: x * x + 0.5", "LeakyReLU": "", "PReLU": "", "ReLU": "6.0, 0.1, 0.2",
        "Softmax": "",
        "BatchNormalization": "", "GroupNormalization": "-1", "LayerNormalization": "",
        "Normalization": "mean=0.1, variance=2.0",
        "RMSNormalization": "", "SpectralNormalization": "layers.Dense(3)", "UnitNormalization": "",
        "AlphaDropout": "0.2", "Dropout": "0.3", "GaussianDropout": "0.2", "GaussianNoise": "0.1",
        "RepeatVector": "3", "Rescaling": "0.5, 0.1", "Reshape": "(5, 1)",
    },
    "pairs of vectors": {
        "Add": "", "Average": "", "Concatenate": "", "Dot": "1", "Maximum": "", "Minimum": "", "Multiply": "", "Subtract": "",
    },
    "sequences": {
        "Bidirectional": "layers.LSTM(2)", "GRU": "3", "LSTM": "3", "RNN": "layers.GRUCell(3)", "SimpleRNN": "3",
        "GRUCell": "3", "LSTMCell": "3", "SimpleRNNCell": "3",
        "StackedRNNCells": "[layers.LSTMCell(3), layers.SimpleRNNCell(2)]", "TimeDistributed": "layers.Dense(2, 'relu')",
        "Conv1D": "3, 2, activation='relu'", "Conv1DTranspose": "3, 2, strides=2", "DepthwiseConv1D": "2",
        "SeparableConv1D": "3, 2", "AdaptiveAveragePooling1D": "2", "AdaptiveMaxPooling1D": "2", "AveragePooling1D": "2",
        "GlobalAveragePooling1D": "", "GlobalMaxPooling1D": "", "MaxPooling1D": "2", "Cropping1D": "1", "UpSampling1D": "2",
        "ZeroPadding1D": "1", "EinsumDense": "'abc,cd->abd', (6, 3)", "Flatten": "", "Masking": "", "Permute": "(2, 1)",
        "STFTSpectrogram": "'log', 4, 2, 4", "SpatialDropout1D": "0.3",
    },
    "pairs of sequences": {
        "AdditiveAttention": "", "Attention": "True, dropout=0.2", "GroupQueryAttention": "2, 2, 1",
        "MultiHeadAttention": "2, 2, dropout=0.1",
    },
    "images": {
        "Conv2D": "3, 2, activation='relu'", "Conv2DTranspose": "3, 2, strides=2", "DepthwiseConv2D": "2",
        "SeparableConv2D": "3, 2", "AdaptiveAveragePooling2D": "2", "AdaptiveMaxPooling2D": "2", "AveragePooling2D": "2",
        "GlobalAveragePooling2D": "",
        "GlobalMaxPooling2D": "", "MaxPooling2D": "2", "CenterCrop": "4, 4", "Cropping2D": "1", "Resizing": "5, 5",
        "UpSampling2D": "2, interpolation='bilinear'", "ZeroPadding2D": "1", "SpatialDropout2D": "0.3",
        "ConvLSTM1D": "2, 2",
    },
    "volumes": {
        "Conv3D": "2, 2, activation='relu'", "Conv3DTranspose": "2, 2, strides=2", "AdaptiveAveragePooling3D": "2",
        "AdaptiveMaxPooling3D": "2", "AveragePooling3D": "2", "GlobalAveragePooling3D": "", "GlobalMaxPooling3D": "",
        "MaxPooling3D": "2", "Cropping3D": "1", "UpSampling3D": "2", "ZeroPadding3D": "1", "SpatialDropout3D": "0.3",
        "ConvLSTM2D": "2, 2",
    },
    "films of volumes": {"ConvLSTM3D": "1, 2"},
    "raw images": {
        "AugMix": "(0, 1), 2, 2", "AutoContrast": "(0, 1)",
        "ContrastLimitedAdaptiveHistogramEqualization": "(0, 1), tile_grid_size=(2, 2)", "Equalization": "(0, 1), 16",
        "MixUp": "", "Pipeline": "[layers.RandomFlip(), layers.RandomBrightness(0.1)]",
        "RandAugment": "(0, 1)", "RandomBrightness": "0.2, (0, 1)", "RandomColorDegeneration": "0.3, (0, 1)",
        "RandomColorJitter": "(0, 1), 0.2, 0.2, 0.2, 0.2", "RandomContrast": "0.2", "RandomCrop": "4, 4",
        "RandomElasticTransform": "0.5, 0.5, value_range=(0, 1)", "RandomErasing": "0.5, value_range=(0, 1)", "RandomFlip": "",
        "RandomGaussianBlur": "0.5, 3, value_range=(0, 1)", "RandomGrayscale": "0.5", "RandomHue": "0.3, (0, 1)",
        "RandomInvert": "0.5, (0, 1)", "RandomPerspective": "0.5, 0.5", "RandomPosterization": "4, (0, 1)",
        "RandomRotation": "0.1", "RandomSaturation": "0.4, (0, 1)", "RandomSharpness": "0.4, (0, 1)", "RandomShear": "0.2, 0.2",
        "RandomTranslation": "0.2, 0.2", "RandomZoom": "0.2", "Solarization": "0.1, 0.5, (0, 1)",
    },
    "raw numbers": {"Discretization": "[-0.5, 0.0, 0.5], output_mode='one_hot'"},
    "raw sounds": {"MelSpectrogram": "fft_length=16, sequence_stride=8, num_mel_bins=4"},
    "tokens": {
        "CategoryEncoding": "12", "Embedding": "12, 3", "Hashing": "12, output_mode='multi_hot'",
        "HashedCrossing": "8, 'one_hot'", "IntegerLookup": "vocabulary=[1, 2, 3, 5], output_mode='count'",
        "ReversibleEmbedding": "12, 3",
    },
    "texts": {
        "StringLookup": "vocabulary=['a', 'b', 'c d'], output_mode='multi_hot'",
        "TextVectorization": "vocabulary=['a', 'b', 'c', 'd'], output_mode='multi_hot'",
    },
}  # fmt: skip

ACTIVATIONS: dict[str, str] = {  # arguments behind the tensor
    "celu": "", "elu": "", "exponential": "", "gelu": "", "glu": "", "hard_shrink": "", "hard_sigmoid": "", "hard_silu": "",
    "hard_tanh": "", "leaky_relu": "", "linear": "", "log_sigmoid": "", "log_softmax": "", "mish": "", "relu": "",
    "relu6": "", "selu": "", "sigmoid": "", "silu": "", "soft_shrink": "", "softmax": "", "softplus": "", "softsign": "",
    "sparse_plus": "", "sparse_sigmoid": "", "sparsemax": "", "squareplus": "", "tanh": "", "tanh_shrink": "",
    "threshold": "0.1, 0.0",
}  # fmt: skip

OPTIMIZERS: dict[str, str] = {
    "Adadelta": "1.0", "Adafactor": "0.01", "Adagrad": "0.05", "Adam": "0.01", "AdamW": "0.01", "Adamax": "0.01",
    "Ftrl": "0.05", "Lamb": "0.01", "Lion": "0.01", "LossScaleOptimizer": "optimizers.Adam(0.01), 4.0",
    "MultiOptimizer": "optimizers.OptimizerMap(optimizers.Adam(0.01), {'.*bias': optimizers.SGD(0.05)})",
    "Muon": "0.01", "Nadam": "0.01", "RMSprop": "0.01", "SGD": "0.05, 0.9", "ScheduleFreeAdamW": "0.01",
}  # fmt: skip

# By what the targets are.
LOSSES: dict[str, dict[str, str]] = {
    "numbers": {
        "CosineSimilarity": "", "Huber": "0.5", "LogCosh": "", "MeanAbsoluteError": "", "MeanAbsolutePercentageError": "",
        "MeanSquaredError": "",
    },
    "positive numbers": {"KLDivergence": "", "MeanSquaredLogarithmicError": "", "Poisson": ""},
    "yes or no": {
        "BinaryCrossentropy": "", "BinaryFocalCrossentropy": "", "Dice": "", "Hinge": "", "SquaredHinge": "", "Tversky": "",
    },
    "one of three": {
        "CategoricalCrossentropy": "", "CategoricalFocalCrossentropy": "", "CategoricalHinge": "",
    },
    "number of a class": {"CategoricalGeneralizedCrossEntropy": "", "SparseCategoricalCrossentropy": ""},
    "number of a class, for a vector of length one": {"Circle": ""},
    "texts of classes": {"CTC": ""},
}  # fmt: skip
METRICS: dict[str, dict[str, str]] = {
    "numbers": {
        "ConcordanceCorrelation": "", "CosineSimilarity": "", "LogCoshError": "", "MeanAbsoluteError": "",
        "MeanAbsolutePercentageError": "", "MeanSquaredError": "", "PearsonCorrelation": "", "R2Score": "",
        "RootMeanSquaredError": "", "concordance_correlation": "", "huber": "", "log_cosh": "",
        "mean_absolute_error": "", "mean_absolute_percentage_error": "", "mean_squared_error": "", "pearson_correlation": "",
    },
    "positive numbers": {
        "KLDivergence": "", "MeanSquaredLogarithmicError": "", "Poisson": "", "kl_divergence": "",
        "mean_squared_logarithmic_error": "", "poisson": "",
    },
    "yes or no": {
        "AUC": "num_thresholds=9", "Accuracy": "", "BinaryAccuracy": "", "BinaryCrossentropy": "", "BinaryIoU": "",
        "F1Score": "threshold=0.5",
        "FBetaScore": "beta=0.5, threshold=0.5", "FalseNegatives": "", "FalsePositives": "", "Hinge": "", "Precision": "",
        "PrecisionAtRecall": "0.5, 9", "Recall": "", "RecallAtPrecision": "0.5, 9", "SensitivityAtSpecificity": "0.5, 9",
        "SpecificityAtSensitivity": "0.5, 9", "SquaredHinge": "", "TrueNegatives": "", "TruePositives": "",
        "binary_accuracy": "", "binary_crossentropy": "", "binary_focal_crossentropy": "", "hinge": "", "squared_hinge": "",
        "MeanMetricWrapper": "keras.losses.dice",
    },
    "one of three": {
        "CategoricalAccuracy": "", "CategoricalCrossentropy": "", "CategoricalHinge": "", "OneHotIoU": "3, [0, 1]",
        "OneHotMeanIoU": "3", "TopKCategoricalAccuracy": "2", "categorical_accuracy": "", "categorical_crossentropy": "",
        "categorical_focal_crossentropy": "", "categorical_hinge": "", "top_k_categorical_accuracy": "",
    },
    "number of a class": {
        "IoU": "3, [0, 1], sparse_y_pred=False", "MeanIoU": "3, sparse_y_pred=False", "SparseCategoricalAccuracy": "",
        "SparseCategoricalCrossentropy": "", "SparseTopKCategoricalAccuracy": "2", "sparse_categorical_accuracy": "",
        "sparse_categorical_crossentropy": "", "sparse_top_k_categorical_accuracy": "",
    },
}  # fmt: skip

LEFT_OUT: dict[str, dict[str, str]] = {
    "layers": {
        "CutMix": "wants labels beside the images: for a data pipeline",
        "FlaxLayer": "is for JAX's backend",
        "InputLayer": "is in each functional model: all models of layers are such",
        "InputSpec": "is no layer",
        "JaxLayer": "is for JAX's backend",
        "Layer": "is the base of all",
        "MaxNumBoundingBoxes": "wants boxes beside the images: for a data pipeline",
        "TFSMLayer": "wraps a saved model, of which nothing is trained",
        "TorchModuleWrapper": "is for PyTorch's backend",
        "Wrapper": "is a base",
    },
    "activations": {},
    "optimizers": {"Optimizer": "is the base of all", "OptimizerMap": "is an argument of MultiOptimizer, which has a row"},
    "losses": {"Loss": "is the base of all"},
    "metrics": {
        "Mean": "takes values, not targets and predictions; Keras's losses are such",
        "Metric": "is the base of all",
        "Sum": "takes values, not targets and predictions",
    },
}


_NO_FUNCTIONS = ("get", "serialize", "deserialize")


def exported(module: Any) -> list[str]:
    """Names of what `keras.layers` or one of the others exports.

    A class has one name here, its own if it is exported by that. Functions are those of activations and metrics: those of
    layers and losses call or are called by the classes.
    """
    names: dict[Any, str] = {}
    for name, value in vars(module).items():
        function = inspect.isfunction(value) and module in (keras.activations, keras.metrics)
        if name[0] != "_" and name not in _NO_FUNCTIONS and (inspect.isclass(value) or function):
            names[value] = name if value not in names or name == value.__name__ else names[value]
    return sorted(names.values())


def make(module: Any, name: str, arguments: str) -> Any:
    """The layer, optimizer, loss or metric `name`, made with these arguments; a function as it is."""
    kind = getattr(module, name)
    return kind if inspect.isfunction(kind) else eval(f"kind({arguments})", {"kind": kind} | NAMES)


NAMES = {"keras": keras, "layers": layers, "optimizers": keras.optimizers, "tf": tf}
