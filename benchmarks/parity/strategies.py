"""Under a `tf.distribute` strategy."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from benchmarks.parity.setup import CASES, Case, Impossible, Setup, case, dataset, mlp

ON_ONE_DEVICE = (
    "mlp_dropout_partial_batch", "cnn_batchnorm", "lstm_dropout", "embedding_sparse_gradients", "dataset_of_unknown_size",
    "gradient_accumulation", "steps_per_execution", "own_train_step", "train_on_batches", "mixed_float16",
)  # fmt: skip
MIRRORED = (
    "mlp_dropout", "mlp_dropout_partial_batch", "cnn_batchnorm", "lstm_dropout", "gru_over_twelve_times",
    "embedding_sparse_gradients", "dict_inputs_and_outputs", "dataset_of_unknown_size", "py_dataset", "sample_weight",
    "own_train_step", "reduce_lr_on_plateau", "batch_callback", "global_clipnorm", "second_fit", "train_on_batches",
)  # fmt: skip
CENTRAL = (
    "mlp_dropout_partial_batch", "cnn_batchnorm", "embedding_sparse_gradients", "dataset_of_unknown_size", "train_on_batches",
)  # fmt: skip
CENTRAL_PAIR = ("embedding_sparse_gradients", "regularizers")  # of two devices: without layers that keep a state


def two_logical_cpus() -> None:
    """Let there be two; before TensorFlow has looked at its devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def _pair() -> list[str]:
    """The devices of a strategy of two."""
    if len(tf.config.list_logical_devices("CPU")) < 2:
        raise Impossible("there is one logical CPU")
    return ["CPU:0", "CPU:1"]


@functools.cache
def mirrored() -> tf.distribute.Strategy:
    """The MirroredStrategy over two logical CPUs; one for all, since a second one would take the keys of the first one's sums
    for its own, and fail where shapes differ (Keras's fit too, seen with TensorFlow 2.21)."""
    return tf.distribute.MirroredStrategy(_pair())


def one_device() -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy("/cpu:0")


@functools.cache
def central() -> tf.distribute.Strategy:
    """The CentralStorageStrategy as it is by default without a GPU: one CPU computes."""
    return tf.distribute.experimental.CentralStorageStrategy()


@functools.cache
def central_pair() -> tf.distribute.Strategy:
    """A CentralStorageStrategy in which two logical CPUs compute."""
    return tf.distribute.experimental.CentralStorageStrategy(_pair())


UNDER: dict[str, tuple[str, Any, tuple[str, ...]]] = {  # by the prefix of a case's name
    "one_device": ("OneDeviceStrategy", one_device, ON_ONE_DEVICE),
    "mirrored": ("MirroredStrategy", mirrored, MIRRORED),
    "central_storage": ("CentralStorageStrategy", central, CENTRAL),
    "central_storage_pair": ("CentralStorageStrategy, two compute devices", central_pair, CENTRAL_PAIR),
}


def _under(prefix: str, kind: str, strategy: Any, known: Case) -> None:
    """Register a case that is there already, its model made under a strategy."""

    def build() -> Setup:
        with strategy().scope():
            return known.build()

    name = f"{prefix}_{known.name}"
    CASES[name] = Case(name, build, f"{kind}: {known.text}", "Under a `tf.distribute` strategy")


for _prefix, (_kind, _strategy, _names) in UNDER.items():
    for _name in _names:
        _under(_prefix, _kind, _strategy, CASES[_name])


@case
def mirrored_distributed_dataset() -> Setup:
    """MirroredStrategy: a dataset that the strategy has distributed already, for validation too."""
    strategy = mirrored()
    with strategy.scope():
        model = mlp(metrics=["mae"])
    data = strategy.experimental_distribute_dataset(dataset().batch(32))
    return model, {"x": data, "validation_data": data, "epochs": 2}
