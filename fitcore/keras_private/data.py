"""Keras's data adapters, and what TensorFlow's datasets read from."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter, init_pool_generator
from keras.src.trainers.data_adapters.torch_data_loader_adapter import TorchDataLoaderAdapter
from tensorflow.python.data.ops import dataset_ops, options


def get_data_adapter(**arguments: Any) -> Any:
    """Keras's own reading of `x`, `y`, `sample_weight`, `class_weight`, ... with its own checks and errors.

    Why: which inputs fit accepts, how they are cast and what is refused is decided here (Keras >= 3.0).
    """
    return data_adapters.get_data_adapter(**arguments)


def are_arrays(x: Any) -> bool:
    """Whether Keras takes this structure for arrays in memory. Why: it knows all kinds of arrays (Keras >= 3.0)."""
    return bool(array_data_adapter.can_convert_arrays(x))


def array_inputs(adapter: Any) -> Any | None:
    """The structure of arrays and dense tensors an array adapter serves batches from, or None for any other adapter.

    Why: the compiled loop gathers its batches itself; `_inputs` is what Keras would gather from, after class weights
    became sample weights and floats were cast to floatx (Keras >= 3.2).
    """
    if not isinstance(adapter, ArrayDataAdapter):
        return None
    inputs = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
    inputs = keras.tree.lists_to_tuples(inputs)
    dense = all(leaf is None or isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in tf.nest.flatten(inputs))
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


def torch_loader_of(adapter: Any) -> Any:
    """The PyTorch DataLoader that the adapter reads, None if it reads something else. Why: as above (Keras >= 3.0)."""
    return adapter.get_torch_dataloader() if isinstance(adapter, TorchDataLoaderAdapter) else None


def is_torch_loader(x: Any) -> bool:
    """Whether it is a PyTorch DataLoader. Why: Keras tells it by its class's name, without PyTorch (Keras >= 3.0)."""
    return bool(data_adapters.is_torch_dataloader(x))


def as_passes_begin(adapter: Any, call: Callable[[], None]) -> None:
    """Let `call` be called whenever a pass over the adapter's batches begins, which is when the first is asked for.

    To be used before `get_tf_dataset`, which hands that method to TensorFlow. Why: there is no public way; the adapter of a
    PyDataset hands over another one (Keras >= 3.0).
    """
    method = "_get_iterator" if isinstance(adapter, PyDatasetAdapter) else "get_numpy_iterator"
    batches = getattr(adapter, method)

    def begun() -> Any:
        call()
        yield from batches()

    setattr(adapter, method, begun)


# Datasets that open what they read when they are opened themselves (seen with TensorFlow 2.20 and 2.21), so that a shuffle
# below draws its seed then; other kinds may do so later, as they are read.
_OPEN_AT_ONCE = {
    "_BatchDataset", "_ParallelBatchDataset", "_PaddedBatchDataset", "_MapDataset", "_ParallelMapDataset", "_FilterDataset",
    "_PrefetchDataset", "_OptionsDataset", "_TakeDataset", "_TakeWhileDataset", "_SkipDataset", "_ShardDataset", "_ZipDataset",
    "_UnbatchDataset", "_RebatchDataset", "_RestructuredDataset", "_WindowDataset", "_FlatMapDataset", "_InterleaveDataset",
    "_ParallelInterleaveDataset", "_ScanDataset", "_IgnoreErrorsDataset", "_DenseToRaggedDataset", "_DirectedInterleaveDataset",
    "_ModelDataset", "DatasetV1Adapter",
}  # fmt: skip


def shuffles_as_it_is_read(dataset: tf.data.Dataset, fused: bool = False) -> bool:
    """Whether a shuffle in it draws a seed not only when the dataset is opened, but as it is read: below another shuffle, a
    `repeat`, a `cache`.

    Why: TensorFlow's checkpoint of an iterator doesn't bring such seeds back (2.20, 2.21), and what a dataset reads from is
    told by private methods alone (TensorFlow >= 2.0).

    Args:
      dataset: any.
      fused: leave aside a `repeat` right above a shuffle, which TensorFlow makes one op of; that one is saved right.
    """

    def found(dataset: Any, late: bool) -> bool:
        kind, inputs = type(dataset).__name__, dataset._inputs()
        if kind in ("_ShuffleDataset", "_RandomDataset") and late:
            return True
        if fused and not late and kind == "_RepeatDataset" and type(inputs[0]).__name__ == "_ShuffleDataset":
            inputs = inputs[0]._inputs()
        return any(found(each, late or kind not in _OPEN_AT_ONCE) for each in inputs)

    fusion = dataset.options().experimental_optimization.shuffle_and_repeat_fusion
    fused = fused and fusion is not False
    return found(dataset, False)


def py_dataset_of(adapter: Any) -> keras.utils.PyDataset | None:
    """The PyDataset that the adapter reads, None if it reads something else. Why: as above (Keras >= 3.0)."""
    return adapter.py_dataset if isinstance(adapter, PyDatasetAdapter) else None


def has_workers(adapter: Any) -> bool:
    """Whether threads or processes make a PyDataset's batches, from the epoch's beginning on. Why: as above (Keras >= 3.0)."""
    return isinstance(adapter, PyDatasetAdapter) and adapter.enqueuer is not None


def use_pool(adapter: Any, make_pool: Callable[[int, Callable[[], None]], Any]) -> None:
    """Let a PyDataset's worker processes, if it has some, be those of a pool of one's own.

    Args:
      adapter: Keras's data adapter.
      make_pool: (how many workers, what each has to do first) -> an object with `apply_async` and `close`.

    Why: Keras's own waits for ever for the batch of a worker that died (seen with 3.15.1). Its enqueuer makes the pool
    by its attribute `executor_fn`, and workers find the dataset in what `init_pool_generator` is given (Keras >= 3.0).
    """
    if has_workers(adapter) and adapter.py_dataset.use_multiprocessing:
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
        self.begun = False  # whether the epoch under way has begun in this process already

    @property
    def num_batches(self) -> int | None:
        return None if self._order is None else len(self._order)

    def __getitem__(self, index: int) -> Any:
        return self._whole[self._begin + index if self._order is None else self._order[index]]

    def on_epoch_begin(self) -> None:
        if not self.begun:
            self._whole.on_epoch_begin()
        self.begun = False

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


def rest_of_py_dataset(adapter: Any, order: list[int] | None, place: int, begun: bool) -> Any:
    """An adapter of what is left of a pass in this order from `place` on, of the same element spec; `begun`: the PyDataset has
    heard already that the epoch under way began.

    Why: the spec is a private attribute, else made of the first batches, which would be made again (Keras >= 3.0).
    """
    whole = adapter.py_dataset
    left = _Rest(whole, None if order is None else order[place:], place)
    left.begun = begun
    rest = PyDatasetAdapter(left, class_weight=adapter.class_weight)
    rest._output_signature = adapter._output_signature
    return rest


def train_validation_split(arrays: Any, validation_split: float) -> tuple[Any, Any]:
    """`arrays` cut into (first part, last part), as `fit(validation_split=...)` cuts them.

    Why: not public; it also decides which inputs can be cut and the error for those that cannot (Keras >= 3.0).
    """
    train, validation = array_slicing.train_validation_split(arrays, validation_split=validation_split)
    return train, validation


# Kinds of datasets whose last input is what they keep, and what stands there for "begin one of your own".
_KEEPING = {
    "ShuffleDatasetV3": "DummySeedGenerator",
    "ShuffleAndRepeatDatasetV2": "DummySeedGenerator",
    "RandomDatasetV2": "DummySeedGenerator",
    "CacheDatasetV2": "DummyMemoryCache",
}


def copied_dataset(dataset: tf.data.Dataset) -> tf.data.Dataset | None:
    """The same dataset as it was when it was made, with seeds and counters of its own; None if it can't be copied.

    Why: each pass over a shuffled dataset changes the order of those after it, and nothing puts that back. A dataset's own way
    into a graph, and back, is not public (TensorFlow >= 2.3).
    """
    try:
        serialized = dataset._as_serialized_graph(external_state_policy=options.ExternalStatePolicy.FAIL)
        graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
        (result,) = (node.input[0] for node in graph.node if node.op == "_Retval")
        constants = [node for node in graph.node if node.op == "Const"]
        shared = {node.name for node in constants if node.attr["dtype"].type == tf.resource.as_datatype_enum}
        definition = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
        definition.node.extend(node for node in graph.node if node.op != "_Retval" and node.name not in shared)
        for kind in sorted(set(_KEEPING.values())):
            definition.node.add(op=kind, name=f"fitcore_{kind}")
        for node in definition.node:
            if node.op in _KEEPING and node.input[-1].split(":")[0] in shared:
                node.input[-1] = f"fitcore_{_KEEPING[node.op]}"
        if any(name.split(":")[0] in shared for node in definition.node for name in node.input):
            return None  # tables and the like
        name = result if ":" in result else f"{result}:0"
        made = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, return_elements=[name], name=""), [])
        return dataset_ops.from_variant(made()[0], dataset.element_spec)
    except (tf.errors.OpError, ValueError, NotImplementedError):
        return None
