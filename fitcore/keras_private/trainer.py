"""Keras's trainer and its callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.trainers.trainer import Trainer
from keras.src.utils.python_utils import pythonify_logs as _pythonify_logs

from fitcore.keras_private.layers import all_layers

# The class that holds Keras's fit. Why: layers can mix it in without being a `keras.Model`, so that patching `keras.Model`
# would miss them (Keras >= 3.0).
trainer_class: Any = TensorFlowTrainer

# Keras's own methods, also while they are patched. Why: what a batch's values are in the logs changed with versions.
fit = TensorFlowTrainer.fit
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


def compiled_step(model: Any, kind: str, make: bool) -> Any:
    """Keras's own compiled step of this kind ("train" or "test"), an object that is another whenever Keras makes it anew.

    Args:
      model: compiled.
      kind: which.
      make: whether Keras is to make it now if there is none, as its fit and its evaluate do. Nothing is traced.

    Why: `compile`, `quantize` and users clear these attributes. From then on Keras sees what has changed in the model. Before
    that it trains by the trace that it has (Keras >= 3.0).
    """
    if make:
        getattr(model, f"make_{kind}_function")()
    return getattr(model, f"{kind}_function")


def assert_compiled(model: Any, method: str) -> None:
    """Raise Keras's ValueError if `model.compile` was not called. Why: the same class and words (Keras >= 3.0)."""
    model._assert_compile_called(method)


def has_loss(model: Any) -> bool:
    """Whether `compile` was given a loss. Why: `model.loss` is a deprecated method before compile (Keras >= 3.0)."""
    return model._compile_loss is not None


def takes_training(model: Any) -> bool:
    """Whether the model's `call` takes `training`. Why: Keras asks its own inspected signature (Keras >= 3.0)."""
    return bool(model._call_has_training_arg)


def make_variables(model: Any, batch: Any) -> None:
    """Let Keras make the variables of the optimizer and the metrics of a model that is built. Nothing is trained or drawn.

    A function that makes variables when TensorFlow first traces it is traced a second time: with these made beforehand a first
    step takes half as long. What can't be made so, and whatever goes wrong, is left to the step: it raises what Keras's does.

    Args:
      model: compiled, with a Keras optimizer.
      batch: a nest of specs: x, (x,), (x, y) or (x, y, sample_weight).

    Why: this is how Keras's other backends, and its fit under a strategy, begin; not public (Keras >= 3.0).
    """
    if not all(layer.built for layer in all_layers(model)):
        return  # its first call makes weights, in an order that decides what they are drawn from
    with contextlib.suppress(Exception):  # of user's code, or of shapes that don't fit
        model._symbolic_build(data_batch=tf.nest.map_structure(_symbolic, batch))


def _symbolic(spec: Any) -> keras.KerasTensor | None:
    return None if spec is None else keras.KerasTensor(spec.shape.as_list(), spec.dtype.name)


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


def flush_events(callback: keras.callbacks.TensorBoard) -> None:
    """Let it write the points it holds back. Why: its writers are a private attribute (Keras >= 3.0)."""
    for writer in callback._writers.values():
        writer.flush()


def are_means(model: keras.Model) -> bool:
    """Whether the results of all of a model's metrics are plain means, its losses' included.

    Why: the metrics given to `compile` are within one that has no public class (Keras >= 3.0).
    """
    leaves = [leaf for metric in model.metrics for leaf in getattr(metric, "metrics", [metric])]
    return all(type(leaf).result is keras.metrics.Mean.result for leaf in leaves)
