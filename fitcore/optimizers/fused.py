"""A cheaper update for Keras's Adam, AdamW and RMSprop, with the same bits; of SGD in the fast tier alone.

Keras updates one variable after the other, with a dozen small ops for each. Here, inside Keras's own `apply`:

    vector   many small variables as one: joined, updated together, split again
    kernel   one by one, by those of TensorFlow's fused kernels that compute Keras's very formula
    fast     one by one, by a kernel that does all of Adam at once, whose 1 - beta is rounded otherwise
    keras    by Keras's own `update_step`

Only the loop over `update_step` is replaced. What Keras does around it (unscaling, accumulating, clipping, weight decay,
moving averages, constraints, counting) it does itself, and the state stays in Keras's own variables, step by step.

A formula of float arithmetic gives other bits if two roundings become one, as fused multiply-add does on a GPU, or if an op
rounds differently at other places of a vector, as TensorFlow's rsqrt does. So before anything is used for the first time it
must give the bits of Keras's own update on random numbers, on the device; otherwise Keras's own is used. And TensorFlow
rearranges products in Keras's graph, (gradient * scale) * rate to gradient * (scale * rate), which it can't do once the
last factor is inside a kernel: `keeps_order` sees to that.

Why these limits, in µs per variable, Adam on a 2-core x86 CPU (`python -m benchmarks.optimizers --sizes`):

    elements     64     256    1024    4096   16384   65536
    Keras       7.8    10.6      12      15      29      87
    vector      4.2     4.7     6.6      15      46     116
    kernel      6.2     6.5     7.7     8.9      22      61
    fast        2.7     2.8     4.8     5.6     9.4      37
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.tracing import scratch

VECTOR_MOST = 256  # elements of a variable that is joined with others: beyond, copying costs more than ops
VECTOR_LEAST = 4  # variables worth joining
# Elements for which ResourceApplyAdam doesn't pay, since it shares out even little work to threads: its sister for AMSGrad,
# which doesn't, serves instead.
AMSGRAD_BETWEEN = (256, 1 << 15)
NUMERICS = ("exact", "fast")

# By a kernel's formula: what else there would be to check is left to Keras. RMSprop has no kernel with Keras's formula.
_WITH_KERNEL = (keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW)
_WITH_VECTOR = (keras.optimizers.Adam, keras.optimizers.AdamW, keras.optimizers.RMSprop)
_HYPERPARAMETERS = ("momentum", "beta_1", "beta_2", "rho", "epsilon")


def why_not(optimizer: Any, jit_compile: bool = False, run_eagerly: bool = False) -> str | None:
    """Why the optimizer's update is left to Keras altogether; None if it is not. The one place where that is decided.

    Clipping, weight decay, moving averages, constraints, gradient accumulation, loss scales and schedules are no reasons:
    Keras does them around the update. Left to Keras variable by variable are weights that are not float32 or float64 or
    are not on the CPU, by `form_of`, and gradients that are sparse or would be rearranged, by `keeps_order`.
    """
    inner = keras_private.inner_optimizer(optimizer)
    if not isinstance(inner, keras.optimizers.Optimizer):
        return "its own update"
    if type(inner) not in {*_WITH_KERNEL, *_WITH_VECTOR}:
        return "Keras's own update; only SGD, Adam, AdamW and RMSprop themselves have another, no class derived from them"
    if keras_private.has_own_update(inner):
        return "its own update, set on the object"
    if keras_private.sums_over_replicas(inner):
        return "Keras's own update, which sums the gradients of all replicas"
    if not all(isinstance(getattr(inner, name, 0.0), (int, float)) for name in _HYPERPARAMETERS):
        return "Keras's own update; a hyperparameter is not a plain number"
    if jit_compile:
        return "Keras's own update, which XLA fuses by itself"
    if run_eagerly:
        return "Keras's own update, op by op"
    return None


def form_of(optimizer: Any, variable: tf.Variable, numerics: str) -> str:
    """How a variable with a dense gradient is updated by an optimizer that `why_not` lets pass.

    Returns:
      "keras", "vector", "kernel", or, under numerics="fast", "fast".
    """
    if variable.dtype not in (tf.float32, tf.float64) or "GPU" in variable.device:  # on a GPU nothing of this is measured yet
        return "keras"
    size = variable.shape.num_elements()
    if numerics == "fast" and isinstance(optimizer, keras.optimizers.Adam) and not optimizer.amsgrad:
        return "fast"
    if _left_as_it_is(optimizer, numerics):
        return "keras"
    for form in _exact_forms(optimizer, size):
        if numerics == "fast" or _same_bits(form, variable.dtype.name, variable.device, *_identity(optimizer)):
            return form
    return "keras"


def _left_as_it_is(optimizer: Any, numerics: str) -> bool:
    """Whether Keras's own update is not even called in another order.

    Which of several equal constants TensorFlow keeps depends on all ops of a step, and it adds up the terms of a loss in the
    order of their names. SGD's own update is two ops a variable, and there is little to gain; Adam's is fourteen.
    """
    return numerics == "exact" and isinstance(optimizer, keras.optimizers.SGD)


def _exact_forms(optimizer: Any, size: int) -> Iterator[str]:
    """Forms that may serve, the cheapest first."""
    if isinstance(optimizer, _WITH_VECTOR) and size <= VECTOR_MOST:
        yield "vector"
    if isinstance(optimizer, _WITH_KERNEL):
        yield "kernel"


# What most gradients come from, and no product with a number.
_NO_PRODUCTS = {"MatMul", "BatchMatMulV2", "BiasAddGrad", "Conv2DBackpropFilter", "DepthwiseConv2dNativeBackpropFilter", "Sum"}
_NO_PRODUCTS |= {"AddN", "AddV2", "RealDiv", "FusedBatchNormGradV3", "Maximum", "Minimum"}


def keeps_order(optimizer: Any, gradient: Any) -> bool:
    """Whether TensorFlow would compute Keras's update from this gradient as it is written.

    SGD and RMSprop multiply the gradient by the learning rate. If it is itself a product with a number, as it is after
    clipping by a global norm, the two numbers are multiplied first. Adam begins with a difference and a square.
    """
    if not isinstance(gradient, tf.Tensor) or tf.executing_eagerly():
        return False  # sparse, or op by op
    if isinstance(optimizer, keras.optimizers.Adam):
        return True
    operation = gradient.op
    while operation.type in ("Identity", "Reshape"):
        operation = operation.inputs[0].op
    return operation.type in _NO_PRODUCTS


@contextlib.contextmanager
def fused(optimizer: Any, numerics: str, jit_compile: bool = False, run_eagerly: bool = False) -> Iterator[None]:
    """While a step is traced inside, Keras's optimizer updates in the forms above.

    Args:
      optimizer: any; only those that `why_not` lets pass are touched.
      numerics: "exact": the bits of Keras's own update. "fast": Adam and AdamW by kernels whose 1 - beta is rounded
        otherwise: an update from the same state differs by less than 1e-4 of its size. And the other kernels also where the
        device fuses multiply and add: by a few last bits.
    """
    inner = keras_private.inner_optimizer(optimizer)
    if why_not(optimizer, jit_compile, run_eagerly) is not None or _left_as_it_is(inner, numerics):
        yield
        return

    def update(gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        groups: dict[str, list[tuple[Any, Any]]] = {}
        for gradient, variable in zip(gradients, variables):
            weight = variable.value if isinstance(variable, keras.Variable) else variable
            form = form_of(inner, weight, numerics) if keeps_order(inner, gradient) else "keras"
            groups.setdefault(form, []).append((gradient, weight))
        apply_forms(inner, groups, learning_rate)

    with keras_private.update_replaced(inner, update):
        yield


def starts_from_zeros(optimizer: Any) -> bool:
    """Whether building the optimizer before the step is traced is the same as in its trace. Keras's ScheduleFreeAdamW, for one,
    would keep copies of the weights that are lost in a trace, and others name their variables after the scope they are in."""
    return type(optimizer) in {*_WITH_KERNEL, *_WITH_VECTOR}


def compare_beforehand(optimizer: Any, variables: Sequence[Any]) -> None:
    """Compare the forms' bits with Keras's for these weights, where that is to be done and hasn't been in this process: within
    the trace of a step, its variables would have TensorFlow trace the step a second time."""
    if why_not(optimizer) is None:
        for variable in variables:
            form_of(keras_private.inner_optimizer(optimizer), variable.value, "exact")


def apply_forms(optimizer: Any, groups: dict[str, list[tuple[Any, Any]]], learning_rate: Any) -> None:
    """Update (gradient, weight) pairs, grouped by form."""
    few = len(groups.get("vector", ())) < VECTOR_LEAST
    if few and "vector" in groups:
        instead = next(iter(form for form in _exact_forms(optimizer, VECTOR_MOST + 1)), "keras")
        groups = groups | {instead: groups.get(instead, []) + groups["vector"], "vector": []}
    for form, pairs in groups.items():
        for dtype in {weight.dtype for _, weight in pairs}:
            same = [(gradient, weight) for gradient, weight in pairs if weight.dtype == dtype]
            _UPDATES[form](optimizer, *zip(*same), keras.ops.cast(learning_rate, dtype.name))


def describe(optimizer: Any, variables: Sequence[Any], numerics: str, jit_compile: bool, run_eagerly: bool) -> str:
    """In words, how many of these variables are updated in which form, if their gradients are dense."""
    reason = why_not(optimizer, jit_compile, run_eagerly)
    if reason is not None:
        return reason
    inner = keras_private.inner_optimizer(optimizer)
    weights = [variable.value if isinstance(variable, keras.Variable) else variable for variable in variables]
    forms = [form_of(inner, weight, numerics) for weight in weights]
    words = {
        "vector": "joined",
        "kernel": "by TensorFlow's fused kernels",
        "fast": "by TensorFlow's Adam kernels",
        "keras": "by Keras",
    }
    if forms.count("vector") < VECTOR_LEAST:
        words["vector"] = words[next(iter(_exact_forms(inner, VECTOR_MOST + 1)), "keras")]
    counts: dict[str, int] = {}
    for form in forms:
        counts[words[form]] = counts.get(words[form], 0) + 1
    what = ", ".join(f"{n} {how}" for how, n in counts.items()) or "known once the model is built"
    return f"variables: {what}; " + ("not bit-identical" if "fast" in forms else "the bits of Keras's own update")


# --- the forms ------------------------------------------------------------------------------------------------------------


def _keras(optimizer: Any, gradients: Sequence[Any], weights: Sequence[Any], learning_rate: Any) -> None:
    for gradient, weight in zip(gradients, weights):
        optimizer.update_step(gradient, weight, learning_rate)


def _kernel(optimizer: Any, gradients: Sequence[Any], weights: Sequence[Any], learning_rate: Any) -> None:
    """SGD by kernels that have its formulas; Adam by three that have parts of it."""
    dtype = weights[0].dtype
    slots = keras_private.optimizer_slots(optimizer, weights)
    if isinstance(optimizer, keras.optimizers.SGD):
        for i, (gradient, weight) in enumerate(zip(gradients, weights)):
            gradient = tf.cast(gradient, dtype)
            if optimizer.momentum == 0:
                tf.raw_ops.ResourceApplyGradientDescent(var=weight.handle, alpha=learning_rate, delta=gradient)
            else:
                momentum = tf.constant(optimizer.momentum, dtype)
                tf.raw_ops.ResourceApplyKerasMomentum(
                    var=weight.handle,
                    accum=slots["momentum"][i].handle,
                    lr=learning_rate,
                    grad=gradient,
                    momentum=momentum,
                    use_nesterov=optimizer.nesterov,
                )
        return
    alpha = _adam_rate(optimizer, dtype, learning_rate)
    # Gradient descent is x -= a*d. With a negated, x += (-a)*d to the last bit, signs of zeros included.
    minus_1, minus_2 = (tf.constant(-(1 - beta), dtype) for beta in (optimizer.beta_1, optimizer.beta_2))
    epsilon = tf.constant(optimizer.epsilon, dtype)
    for i, (gradient, weight) in enumerate(zip(gradients, weights)):
        gradient = tf.cast(gradient, dtype)
        m, v = slots["m"][i], slots["v"][i]
        tf.raw_ops.ResourceApplyGradientDescent(var=m.handle, alpha=minus_1, delta=gradient - m)
        tf.raw_ops.ResourceApplyGradientDescent(var=v.handle, alpha=minus_2, delta=tf.square(gradient) - v)
        if optimizer.amsgrad:
            largest = slots["v_hat"][i]
            largest.assign(tf.maximum(largest, v), read_value=False)
            v = largest
        # Adagrad without its own accumulation: weight -= m * alpha / (sqrt(v) + epsilon).
        tf.raw_ops.ResourceApplyAdagradV2(
            var=weight.handle, accum=v.handle, lr=alpha, epsilon=epsilon, grad=m.read_value(), update_slots=False
        )


def _vector(optimizer: Any, gradients: Sequence[Any], weights: Sequence[Any], learning_rate: Any) -> None:
    """Keras's formulas, op by op, on all variables joined."""
    dtype = weights[0].dtype
    slots = keras_private.optimizer_slots(optimizer, weights)
    gradient = tf.cast(_joined(gradients), dtype)
    if isinstance(optimizer, keras.optimizers.RMSprop):
        velocity = optimizer.rho * _joined(slots["v"]) + (1 - optimizer.rho) * tf.square(gradient)
        _assign(slots["v"], velocity)
        denominator = velocity + optimizer.epsilon
        if optimizer.centered:
            average = optimizer.rho * _joined(slots["average"]) + (1 - optimizer.rho) * gradient
            _assign(slots["average"], average)
            denominator = velocity - tf.square(average) + optimizer.epsilon
        # x / sqrt(y) becomes x * rsqrt(y) in TensorFlow's optimized graph, and rsqrt rounds a vector's last few elements
        # otherwise than the rest. So this is done as Keras does it, for each variable by itself.
        parts = zip(_parts(learning_rate * gradient, weights), _parts(denominator, weights))
        steps = [numerator / tf.sqrt(part) for numerator, part in parts]
        if optimizer.momentum > 0:
            steps = [optimizer.momentum * m + step for m, step in zip(slots["momentum"], steps)]
            for m, step in zip(slots["momentum"], steps):
                m.assign(step, read_value=False)
    else:
        alpha = _adam_rate(optimizer, dtype, learning_rate)
        m, v = _joined(slots["m"]), _joined(slots["v"])
        m = m + (gradient - m) * (1 - optimizer.beta_1)
        v = v + (tf.square(gradient) - v) * (1 - optimizer.beta_2)
        _assign(slots["m"], m)
        _assign(slots["v"], v)
        if optimizer.amsgrad:
            v = tf.maximum(_joined(slots["v_hat"]), v)
            _assign(slots["v_hat"], v)
        steps = _parts(m * alpha / (tf.sqrt(v) + optimizer.epsilon), weights)
    for weight, step in zip(weights, steps):
        weight.assign_sub(step, read_value=False)


def _fast(optimizer: Any, gradients: Sequence[Any], weights: Sequence[Any], learning_rate: Any) -> None:
    """Adam by a kernel that does all of it."""
    dtype = weights[0].dtype
    slots = keras_private.optimizer_slots(optimizer, weights)
    step = tf.cast(optimizer.iterations + 1, dtype)
    beta_1, beta_2 = tf.constant(optimizer.beta_1, dtype), tf.constant(optimizer.beta_2, dtype)
    few, many = AMSGRAD_BETWEEN
    same = {
        "beta1_power": tf.pow(beta_1, step),
        "beta2_power": tf.pow(beta_2, step),
        "lr": learning_rate,
        "beta1": beta_1,
        "beta2": beta_2,
        "epsilon": tf.constant(optimizer.epsilon, dtype),
    }
    for gradient, weight, m, v in zip(gradients, weights, slots["m"], slots["v"]):
        each = {"var": weight.handle, "m": m.handle, "v": v.handle, "grad": tf.cast(gradient, dtype)}
        if few < weight.shape.num_elements() <= many:
            largest = _largest(weight)  # AMSGrad divides by the largest v so far: from zero on, this step's
            largest.assign(tf.zeros(largest.shape, dtype), read_value=False)
            tf.raw_ops.ResourceApplyAdamWithAmsgrad(**each, vhat=largest.handle, **same)
        else:
            tf.raw_ops.ResourceApplyAdam(**each, **same)


_largests: dict[int, tf.Variable] = {}


def _largest(weight: tf.Variable) -> tf.Variable:
    """A variable like this one, that lives as long: scratch space, no state."""
    if id(weight) not in _largests:
        with tf.init_scope(), tf.device(weight.device):
            _largests[id(weight)] = scratch(tf.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False))
        weakref.finalize(weight, _largests.pop, id(weight))
    return _largests[id(weight)]


_UPDATES: dict[str, Callable[..., None]] = {"keras": _keras, "kernel": _kernel, "vector": _vector, "fast": _fast}


def _adam_rate(optimizer: Any, dtype: tf.DType, learning_rate: Any) -> tf.Tensor:
    """Keras's learning rate with both bias corrections in it, by Keras's ops, once for all variables."""
    step = tf.cast(optimizer.iterations + 1, dtype)
    power_1 = tf.pow(tf.constant(optimizer.beta_1, dtype), step)
    power_2 = tf.pow(tf.constant(optimizer.beta_2, dtype), step)
    return learning_rate * tf.sqrt(1 - power_2) / (1 - power_1)


def _joined(tensors: Sequence[Any]) -> tf.Tensor:
    return tf.concat([tensor if len(tensor.shape) == 1 else tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _parts(vector: tf.Tensor, like: Sequence[Any]) -> list[tf.Tensor]:
    parts = tf.split(vector, [weight.shape.num_elements() for weight in like])
    return [part if len(weight.shape) == 1 else tf.reshape(part, weight.shape) for part, weight in zip(parts, like)]


def _assign(variables: Sequence[tf.Variable], vector: tf.Tensor) -> None:
    for variable, part in zip(variables, _parts(vector, variables)):
        variable.assign(part, read_value=False)


# --- the proof ------------------------------------------------------------------------------------------------------------


def _identity(optimizer: Any) -> tuple[Any, ...]:
    """What tells formulas apart: the class, and its hyperparameters by name."""
    names = (*_HYPERPARAMETERS, "amsgrad", "nesterov", "centered")
    return type(optimizer), tuple((name, getattr(optimizer, name)) for name in names if hasattr(optimizer, name))


@functools.cache
def _same_bits(form: str, dtype: str, device: str, kind: type, hyperparameters: tuple[tuple[str, Any], ...]) -> bool:
    """Whether a form gives the bits of Keras's own update over some steps on random numbers, on this device."""
    sizes = (3, 9, 70, 257) if form == "vector" else (4099,)
    results = []
    with tf.init_scope(), tf.device(device):
        for which in (form, "keras"):
            rng = np.random.default_rng(0)
            optimizer = kind(learning_rate=0.0123, name="self_check", **dict(hyperparameters))
            weights = [tf.Variable(rng.normal(size=size), dtype=dtype, trainable=True) for size in sizes]
            optimizer.build(weights)
            for _ in range(3):
                gradients = [tf.constant(rng.normal(size=size) * 10.0 ** rng.integers(-6, 3), dtype) for size in sizes]
                _UPDATES[which](optimizer, gradients, weights, tf.constant(0.0123, dtype))
                optimizer.iterations.assign_add(1)
            results.append([variable.numpy().tobytes() for variable in (*weights, *optimizer.variables)])
    return results[0] == results[1]
