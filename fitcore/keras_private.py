"""Every touch of a private name of Keras (and one of TensorFlow), in one place.

Nothing outside this module imports `keras.src` or reads an underscore attribute of a Keras object. Each function says why
the private name is needed and since which Keras it has existed in this form. Checked by the tests on Keras 3.12.0 (the
oldest that TensorFlow 2.20/2.21 are used with here) and 3.15.1.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter, init_pool_generator
from keras.src.trainers.trainer import Trainer
from keras.src.utils.python_utils import pythonify_logs as _pythonify_logs
from tensorflow.python.eager import context as tf_context
from tensorflow.python.framework.config import is_op_determinism_enabled
from tensorflow.python.ops import stateful_random_ops

# --- data ---------------------------------------------------------------------------------------------------------------


def get_data_adapter(**arguments: Any) -> Any:
    """Keras's own reading of `x`, `y`, `sample_weight`, `class_weight`, ... with its own checks and errors.

    Why: which inputs fit accepts, how they are cast and what is refused is decided here (Keras >= 3.0).
    """
    return data_adapters.get_data_adapter(**arguments)


def are_arrays(x: Any) -> bool:
    """Whether Keras takes this structure for arrays in memory. Why: it knows all kinds of arrays (Keras >= 3.0)."""
    return bool(array_data_adapter.can_convert_arrays(x))


def array_inputs(adapter: Any) -> Any | None:
    """The structure of dense tensors an array adapter serves batches from, or None for any other adapter.

    Why: the compiled loop gathers its batches itself; `_inputs` is what Keras would gather from, after class weights
    became sample weights and floats were cast to floatx (Keras >= 3.2).
    """
    if not isinstance(adapter, ArrayDataAdapter):
        return None
    inputs = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
    inputs = tf.nest.map_structure(
        lambda leaf: tf.convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, keras.tree.lists_to_tuples(inputs)
    )
    dense = all(leaf is None or isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(inputs))
    return inputs if dense else None


def index_dataset(n: int, batch_size: int, shuffle: bool | str) -> tf.data.Dataset:
    """The row numbers 0..n-1, int64, batched and shuffled by the installed Keras itself.

    Why: Keras's order depends on which random ops it runs and where they stand in its graph; only its own adapter can
    say (Keras >= 3.0; the ops changed between versions, this call did not).
    """
    rows = tf.range(n, dtype=tf.int64)
    return ArrayDataAdapter(rows, batch_size=batch_size, shuffle=shuffle).get_tf_dataset()


def is_generator_adapter(adapter: Any) -> bool:
    """Whether the adapter reads a Python generator. Why: the adapters' classes are not public (Keras >= 3.0)."""
    return isinstance(adapter, GeneratorDataAdapter)


def py_dataset_of(adapter: Any) -> keras.utils.PyDataset | None:
    """The PyDataset that the adapter reads, None if it reads something else. Why: as above (Keras >= 3.0)."""
    return adapter.py_dataset if isinstance(adapter, PyDatasetAdapter) else None


def use_pool(adapter: Any, make_pool: Callable[[int, Callable[[], None]], Any]) -> None:
    """Let a PyDataset's worker processes, if it has some, be those of a pool of one's own.

    Args:
      adapter: Keras's data adapter.
      make_pool: (how many workers, what each has to do first) -> an object with `apply_async` and `close`.

    Why: Keras's own waits for ever for the batch of a worker that died (seen with 3.15.1). Its enqueuer makes the pool
    by its attribute `executor_fn`, and workers find the dataset in what `init_pool_generator` is given (Keras >= 3.0).
    """
    if isinstance(adapter, PyDatasetAdapter) and adapter.enqueuer is not None and adapter.py_dataset.use_multiprocessing:
        workers = adapter.py_dataset.workers
        adapter.enqueuer.executor_fn = lambda datasets: make_pool(workers, functools.partial(init_pool_generator, datasets))


class _Indices(keras.utils.PyDataset):
    """Gives the numbers of its batches for batches."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (np.array([index]),)


class _Rest(keras.utils.PyDataset):
    """The rest of a pass over a PyDataset: its batches numbered `order`, or, in an endless one, those from `begin` on."""

    def __init__(self, whole: keras.utils.PyDataset, order: list[int] | None, begin: int) -> None:
        super().__init__(whole.workers, whole.use_multiprocessing, whole.max_queue_size)
        self._whole, self._order, self._begin = whole, order, begin

    @property
    def num_batches(self) -> int | None:
        return None if self._order is None else len(self._order)

    def __getitem__(self, index: int) -> Any:
        return self._whole[self._begin + index if self._order is None else self._order[index]]

    def on_epoch_begin(self) -> None:
        self._whole.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._whole.on_epoch_end()


def py_dataset_order(adapter: Any, random_state: Any) -> list[int] | None:
    """The numbers of a PyDataset's batches in the order of a pass that began at this state of Python's `random`; None: endless.

    Why: the installed Keras itself says what it draws; `shuffle` is the adapter's attribute (Keras >= 3.0).
    """
    if adapter.num_batches is None:
        return None
    kept = random.getstate()
    random.setstate(random_state)
    try:
        indices = PyDatasetAdapter(_Indices(adapter.num_batches), shuffle=adapter.shuffle)
        return [int(batch[0][0]) for batch in indices.get_numpy_iterator()]
    finally:
        random.setstate(kept)


def rest_of_py_dataset(adapter: Any, order: list[int] | None, place: int) -> Any:
    """An adapter of what is left of a pass in this order from `place` on, of the same element spec.

    Why: the spec is a private attribute, else made of the first batches, which would be made again (Keras >= 3.0).
    """
    whole = adapter.py_dataset
    rest = PyDatasetAdapter(_Rest(whole, None if order is None else order[place:], place), class_weight=adapter.class_weight)
    rest._output_signature = adapter._output_signature
    return rest


def train_validation_split(arrays: Any, validation_split: float) -> tuple[Any, Any]:
    """`arrays` cut into (first part, last part), as `fit(validation_split=...)` cuts them.

    Why: not public; it also decides which inputs can be cut and the error for those that cannot (Keras >= 3.0).
    """
    train, validation = array_slicing.train_validation_split(arrays, validation_split=validation_split)
    return train, validation


def global_seed() -> int | None:
    """TensorFlow's global seed, None if unset.

    Why: with a seed Keras's permutation is a constant that need be drawn only once. TensorFlow's public `get_seed` would
    draw from its generator, and so change the run (TensorFlow >= 2.0).
    """
    seed = tf_context.global_seed()
    return None if seed is None else int(seed)


def op_determinism() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` is on. Why: there is no public getter (TensorFlow >= 2.8)."""
    return bool(is_op_determinism_enabled())


# --- random state ---------------------------------------------------------------------------------------------------------


def eager_random_state() -> Any:
    """State of the generator that gives eager random ops their seeds, a `random.Random`'s; None without a global seed.

    Why: there is no public getter, and after a resume eager ops must draw what they would have drawn (TensorFlow >= 2.0).
    """
    return tf_context.context()._rng.getstate() if global_seed() is not None else None


def set_eager_random_state(state: Any) -> None:
    """Put such a state back. Why: as above; `tf.random.set_seed` can only start it afresh (TensorFlow >= 2.0)."""
    tf_context.context()._rng.setstate(state)


def global_generator_state() -> dict[str, Any] | None:
    """State of `tf.random.get_global_generator()`, None if nobody has asked for it yet.

    Why: the public getter would make one (TensorFlow >= 2.4).
    """
    generator = stateful_random_ops.global_generator
    return None if generator is None else {"state": generator.state.numpy(), "algorithm": int(generator.algorithm)}


def set_global_generator_state(state: dict[str, Any]) -> None:
    """Put such a state back, into the generator that is there or a new one. Why: as above (TensorFlow >= 2.4)."""
    if stateful_random_ops.global_generator is None:
        tf.random.set_global_generator(tf.random.Generator.from_state(state["state"], state["algorithm"]))
    else:
        stateful_random_ops.global_generator.reset(state["state"])


def global_seed_generator_state() -> np.ndarray | None:
    """State of the generator behind `keras.random` ops without a seed, None if nobody has drawn from it yet.

    Why: it belongs to no layer, so it is in no model's variables (Keras >= 3.0).
    """
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else np.array(generator.state)


def set_global_seed_generator_state(state: np.ndarray) -> None:
    """Put such a state back. Why: as above (Keras >= 3.0)."""
    global_seed_generator().state.assign(state)


# --- the trainer --------------------------------------------------------------------------------------------------------


# The class that holds Keras's fit. Why: layers can mix it in without being a `keras.Model`, so that patching `keras.Model`
# would miss them (Keras >= 3.0).
trainer_class: Any = TensorFlowTrainer

# Keras's own methods, also while they are patched. Why: what a batch's values are in the logs changed with versions.
train_on_batch = TensorFlowTrainer.train_on_batch
test_on_batch = TensorFlowTrainer.test_on_batch


def is_trainer(model: Any) -> bool:
    """Whether `model` has Keras's fit. Why: layers can mix in `Trainer` without being a `keras.Model` (Keras >= 3.0)."""
    return isinstance(model, Trainer)


def overrides(model: Any, name: str) -> bool:
    """Whether the model's class (or the object itself) replaces Keras's own method `name`.

    Why: Keras's implementation lives in `keras.src` (Trainer, and the TensorFlow trainer below it) (Keras >= 3.0).
    """
    if name in vars(model):
        return True
    for cls in type(model).__mro__:
        if name in vars(cls):
            return cls not in (Trainer, TensorFlowTrainer)
    return False


@contextlib.contextmanager
def step_function(model: Any, name: str, step: Callable[[Any], Any]) -> Iterator[None]:
    """Let Keras's own methods run `step` on a batch, (x, y, sample_weight) -> logs, as its `name` ("train_function", ...).

    Why: Keras keeps its compiled step in these attributes and makes none while one is there (Keras >= 3.0).
    """
    kept = vars(model).get(name)
    vars(model)[name] = lambda batches: step(next(batches))
    try:
        yield
    finally:
        vars(model)[name] = kept


def has_own_function(model: Any, name: str) -> bool:
    """Whether somebody put a function of their own in place of Keras's compiled step `name` ("train_function", ...).

    Why: Keras keeps its compiled step in these attributes and runs whatever is there (Keras >= 3.0).
    """
    function = getattr(model, name)
    return function is not None and function.__module__ != TensorFlowTrainer.__module__


def is_distributed(model: Any) -> bool:
    """Whether Keras runs the model's steps by a tf.distribute strategy: the one it was made under, or the current one.

    Why: the public `distribute_strategy` is never None, and TensorFlow's default one can't be told from others (Keras >= 3.0).
    """
    return model._distribute_strategy is not None or tf.distribute.has_strategy()


def assert_compiled(model: Any, method: str) -> None:
    """Raise Keras's ValueError if `model.compile` was not called. Why: the same class and words (Keras >= 3.0)."""
    model._assert_compile_called(method)


def has_loss(model: Any) -> bool:
    """Whether `compile` was given a loss. Why: `model.loss` is a deprecated method before compile (Keras >= 3.0)."""
    return model._compile_loss is not None


def takes_training(model: Any) -> bool:
    """Whether the model's `call` takes `training`. Why: Keras asks its own inspected signature (Keras >= 3.0)."""
    return bool(model._call_has_training_arg)


def compute_loss(model: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> tf.Tensor:
    """The compiled loss plus regularization and `add_loss` terms, or the user's own `compute_loss`.

    Why: `_compute_loss` passes `training` only to overrides that take it (Keras >= 3.3).
    """
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)


def loss_tracker(model: Any) -> keras.metrics.Mean:
    """The running mean behind `loss` in the logs; made anew by each `compile`. Why: not public (Keras >= 3.0)."""
    return model._loss_tracker


def compile_metrics(model: Any) -> keras.metrics.Metric | None:
    """The compiled metrics as one metric, None without any. Why: `compute_metrics` updates this object (Keras >= 3.0)."""
    return model._compile_metrics


def steps_counted(optimizer: keras.optimizers.Optimizer) -> int:
    """How many steps the optimizer has made, micro-steps if it accumulates gradients.

    Why: `iterations` is divided by the number of accumulated steps, its rest lost; `_iterations` is not (Keras >= 3.2).
    """
    return int(getattr(optimizer, "inner_optimizer", optimizer)._iterations)


def has_own_schedule(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether its learning rate is a schedule or a function and can't be set. Why: the public `learning_rate` is the value
    at this step (Keras >= 3.0)."""
    return callable(getattr(optimizer, "inner_optimizer", optimizer)._learning_rate)


def initial_epoch(model: Any, requested: int) -> int:
    """The epoch to start at. Why: BackupAndRestore says so by setting `model._initial_epoch` (Keras >= 3.0)."""
    return model._initial_epoch or requested


def should_evaluate(model: Any, epoch: int, validation_freq: int | list[int]) -> bool:
    """Whether `epoch` is one to validate after. Why: Keras's rule and its error (Keras >= 3.0)."""
    return bool(model._should_eval(epoch, validation_freq))


def metrics_or_logs(model: Any, logs: Any) -> Any:
    """The metrics' state if it has the keys of `logs`, else `logs`: Keras's epoch logs. Why: not public (Keras >= 3.0)."""
    return model._get_metrics_result_or_logs(logs)


def flatten_logs(model: Any, logs: dict[str, Any]) -> Any:
    """What `evaluate(return_dict=False)` returns for `logs`. Why: the order is Keras's (Keras >= 3.0)."""
    return model._flatten_metrics_in_order(logs)


def pythonify(logs: Any) -> dict[str, Any]:
    """`logs` flat, sorted by key, as Python numbers. Why: evaluate returns them so (Keras >= 3.10)."""
    return _pythonify_logs(logs)


def cache_validation(model: Any, **arguments: Any) -> Any:
    """Make, keep with the model and return the iterator that its `evaluate(_use_cached_eval_dataset=True)` reads from.

    Why: Keras's fit validates so, through a class's own `evaluate` too, and thus reads a generator on (Keras >= 3.0).
    """
    strategy, each = model.distribute_strategy, model.steps_per_execution
    model._eval_epoch_iterator = TFEpochIterator(
        distribute_strategy=strategy, steps_per_execution=each, shuffle=False, **arguments
    )
    return model._eval_epoch_iterator


def drop_validation(model: Any) -> None:
    """Take that iterator away, as Keras's fit does at its end. Why: as above."""
    model._eval_epoch_iterator = None


# --- callbacks ----------------------------------------------------------------------------------------------------------


def idle_between_epochs(callback: keras.callbacks.Callback) -> bool:
    """Whether one of Keras's own callbacks overrides batch methods but, as it is set up, does nothing in them.

    Why: a callback that must see every step costs a host round trip per step. TensorBoard's `_should_trace` says whether
    it was asked for a profile (Keras >= 3.0).
    """
    kind = type(callback)
    if kind is keras.callbacks.ProgbarLogger:
        return True  # shows where training is; it is called whenever the loop comes back
    if kind in (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore):
        return bool(callback.save_freq == "epoch")
    if kind is keras.callbacks.TensorBoard:
        return callback.update_freq == "epoch" and not callback.write_steps_per_second and not callback._should_trace
    return False


# --- layers -------------------------------------------------------------------------------------------------------------


def all_layers(model: Any) -> list[Any]:
    """The model and every layer in it, however deep, each once; empty if it is no Keras layer.

    Why: `model.layers` stops at the first level, and not every layer that holds others has `layers` (Keras >= 3.0).
    """
    if not isinstance(model, keras.layers.Layer):
        return []
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def own_weights(layer: Any) -> set[int]:
    """Ids of the trainable weights a layer has itself, those of layers in it aside. Why: not public (Keras >= 3.0)."""
    return {id(variable) for variable in layer._trainable_variables}


def added_losses(layer: Any) -> int:
    """How many losses `add_loss` has given this layer. Why: `layer.losses` has regularizers in it too (Keras >= 3.0)."""
    return len(layer._losses)


def autocast_scope(dtype: str | None) -> Any:
    """The scope in which Keras calls a layer's `call` under mixed precision: variables read as `dtype`.

    Why: calling `call` by itself would leave it out (Keras >= 3.0).
    """
    return AutocastScope(dtype)


# --- optimizers ---------------------------------------------------------------------------------------------------------


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer, else itself. Why: an attribute of this one class alone (Keras >= 3.0)."""
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def has_own_update(optimizer: Any) -> bool:
    """Whether a method that updates was set on the object. Why: `_backend_update_step` calls `update_step` (Keras >= 3.2)."""
    return bool({"apply", "update_step", "_backend_update_step", "_backend_apply_gradients"} & vars(optimizer).keys())


@contextlib.contextmanager
def update_replaced(optimizer: Any, update: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Let Keras's `apply` call `update(gradients, variables, learning_rate)` instead of `update_step` for each variable.

    Why: `_backend_update_step` is just that loop; before it all of clipping, weight decay and accumulation is done, after it
    averages, constraints and counting (Keras >= 3.2). Not setattr: Keras would look for variables in it.
    """
    vars(optimizer)["_backend_update_step"] = update
    try:
        yield
    finally:
        del vars(optimizer)["_backend_update_step"]


_SLOTS = {
    "momentum": ("momentums", "_momentums"),
    "m": ("_momentums",),
    "v": ("_velocities",),
    "v_hat": ("_velocity_hats",),
    "average": ("_average_gradients",),
}


def optimizer_slots(optimizer: Any, weights: Sequence[tf.Variable]) -> dict[str, list[tf.Variable]]:
    """SGD's, Adam's or RMSprop's variables for each of these weights, by kind; kinds that it doesn't have are left out.

    Why: they are private, and so is `_get_variable_index`, which says whose is whose (Keras >= 3.2).
    """
    indices = [optimizer._get_variable_index(weight) for weight in weights]
    slots = {}
    for kind, names in _SLOTS.items():
        variables = next((getattr(optimizer, name) for name in names if getattr(optimizer, name, None)), None)
        if variables:
            slots[kind] = [variables[i].value for i in indices]
    return slots


def variable_index(optimizer: Any, variable: Any) -> int:
    """The position of a weight's slots in the optimizer's lists. Why: not public, though Keras's docs use it (Keras >= 3.2)."""
    return int(optimizer._get_variable_index(variable))


def count_step(optimizer: Any) -> None:
    """Count a step that made no update. Why: `iterations` is what is shown, `_iterations` the counter (Keras >= 3.2)."""
    optimizer._iterations.assign_add(1)
