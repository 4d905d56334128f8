"""A step on all replicas of a `tf.distribute` strategy, as Keras's trainer runs it:

    on each replica, with its part of the batch:
        train_step     # fitcore/step.py; Keras divides the loss by the number of replicas and sums the gradients in `apply`
    logs: the mean over replicas; an epoch's are what the metrics of all replicas hold together
    what is recorded: fitcore's own recorders tell of the whole batch; of other recorders, the mean over replicas

The loop around it is that of fitcore/program.py, in which `Strategy.run` stands where the step does on one device.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, overload

import tensorflow as tf

from fitcore import keras_private
from fitcore.cluster.agreement import Agreement, is_cluster
from fitcore.data import ArraySource, Source
from fitcore.data.distributed import DistributedSource
from fitcore.tracing import total

ReplicaStep = Callable[[Any, tf.Tensor], tuple[Any, dict[str, Any]]]  # (batch, step index) -> (logs or None, recorded)


class Replicas:
    """The replicas of a strategy, run together.

    Args:
      strategy: the one that the model belongs to.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.agreement = Agreement(strategy) if is_cluster(strategy) else None  # of the processes, where they are several

    @property
    def several(self) -> bool:
        """Whether variables have copies, whose gradients are to be summed, even if here there is but one."""
        return bool(self.strategy.num_replicas_in_sync > 1) or isinstance(self.strategy, tf.distribute.MirroredStrategy)

    def on_each(self, step: ReplicaStep, agreeing: Collection[str] = ()) -> ReplicaStep:
        """The step of one replica as a step of all, of a batch that holds a part for each.

        Args:
          step: as on one device.
          agreeing: names of what it records that is the same on all replicas.
        """

        def run(batch: Any, index: tf.Tensor) -> tuple[Any, dict[str, Any]]:
            logs, recorded = self.strategy.run(step, args=(batch, index))
            return self.mean_of_logs(logs), {name: self._one(recorded[name], name in agreeing) for name in recorded}

        return run

    def build(self, model: Any, source: Source) -> None:
        """Make all variables of a Keras model, as Keras does at this point of each fit and each evaluation."""
        if not isinstance(source, DistributedSource):
            assert isinstance(source, ArraySource)
            rows = min(source.batch_size, source.num_rows)
            spec = source.batch_spec(-(-rows // self.strategy.num_replicas_in_sync))
            if self.agreement is None:
                keras_private.build_variables(model, spec)
            else:
                keras_private.build_in_cluster(model, self.strategy, spec)
            return
        if self.agreement is not None:
            keras_private.build_in_cluster(model, self.strategy, source.part_spec())
            return

        def feeds() -> Iterator[Any]:
            source.on_epoch_begin(new_pass=True)
            yield source.open_pass(0)

        keras_private.build_variables(model, feeds=feeds())

    def mean_of_logs(self, logs: Any) -> Any:
        """Logs of all replicas as one, as Keras makes them; None stays None."""
        return None if logs is None else keras_private.mean_over_replicas(logs, self.strategy)

    def results(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """The logs that `function` gives on each replica, as one."""
        return lambda: self.mean_of_logs(self.strategy.run(function))

    def sum(self, function: Callable[[Any], tf.Tensor], batch: Any) -> tf.Tensor:
        """The sum over replicas of a function of their parts of the batch."""
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(function, args=(batch,)), axis=None)

    def _one(self, values: Any, agree: bool) -> tf.Tensor:
        if agree:
            return self.strategy.experimental_local_results(values)[0]
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)


# --- around all replicas --------------------------------------------------------------------------------------------------


def while_loop(cond: Any, body: Any, loop_vars: Any, shape_invariants: Any = None) -> Any:
    """As `tf.while_loop`, one iteration after the other: an op that sums over replicas doesn't tell one iteration from the
    next, and what doesn't depend on the weights, as the lengths of sparse gradients, would be summed ahead of its time."""
    return tf.while_loop(cond, body, loop_vars, shape_invariants, parallel_iterations=1)


def cond(predicate: tf.Tensor, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """As `tf.cond`, by a loop of one iteration or none: of a sum over replicas in a branch of `tf.cond` TensorFlow makes a
    graph that lacks an input ("You must feed a value for placeholder", seen with 2.21)."""
    _, result = while_loop(lambda run, _: run, lambda run, _: (tf.constant(False), true_fn()), (predicate, false_fn()))
    return result


def remembers_shapes(graph: tf.Graph) -> bool:
    """Whether an op in it that gathers from all replicas takes only one shape in a call: sparse gradients need that one, and
    their size changes with the batch ("Shape mismatch in the collective instance", seen with 2.21)."""
    definition = graph.as_graph_def()
    nodes = itertools.chain(definition.node, *(function.node_def for function in definition.library.function))
    return any(node.op == "CollectiveGatherV2" for node in nodes)


# --- inside a replica -----------------------------------------------------------------------------------------------------


class Totals(Sequence[Any]):
    """Sums of gradients over replicas, made when they are first read; None stays None.

    Where the optimizer's update would begin with these sums they are made only once: it is handed those that were read, which
    the same op has made of the same tensors. All gradients are one vector there, in which nothing else may stand: with more
    than two replicas the order of summation depends on the place in it.

    Args:
      gradients: what the optimizer gets.
      watched: the same for those who only watch.
      optimizer: which one.
    """

    def __init__(self, gradients: Sequence[Any], watched: Sequence[Any], optimizer: Any) -> None:
        self._gradients = gradients
        self._shared = keras_private.sums_first(optimizer)
        self._local = gradients if self._shared else watched
        self._watched = watched
        self._summed: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._local)

    def __iter__(self) -> Iterator[Any]:
        if self._summed is None:
            # Sums that the update is made of are the training's, even if one who watches reads them first: see aside.py.
            root = tf.compat.v1.get_default_graph().name_scope(None) if self._shared else contextlib.nullcontext()
            with root:
                summed = iter(total([tensor for tensor in self._local if tensor is not None]))
            self._summed = [None if tensor is None else next(summed) for tensor in self._local]
        return iter(self._summed)

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[None]:
        """Within it, on this replica, whoever sums these very gradients gets the sums that were read before."""
        if self._summed is None:
            self._local = self._watched  # who reads them later must not touch what the update is made of
        if self._summed is None or not self._shared:
            yield
            return
        context = tf.distribute.get_replica_context()
        given = [gradient for gradient in self._gradients if gradient is not None]
        sums = [summed for summed in self._summed if summed is not None]

        def all_reduce(reduce_op: Any, value: Any, options: Any = None) -> Any:
            same = isinstance(value, list) and len(value) == len(given) and all(a is b for a, b in zip(value, given))
            return sums if same else type(context).all_reduce(context, reduce_op, value, options)

        vars(context)["all_reduce"] = all_reduce  # each replica has a context of its own
        try:
            yield
        finally:
            del vars(context)["all_reduce"]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return list(self)[index]


def components(variable: Any) -> Sequence[Any]:
    """The copies of a variable on this process's replicas; without a strategy, itself."""
    value = getattr(variable, "value", variable)
    return value.values if isinstance(value, tf.distribute.DistributedValues) else (variable,)
