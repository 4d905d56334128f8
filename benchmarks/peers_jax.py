"""The workloads in plain JAX: the same layers, initializers, loss, metric and Adam as in `benchmarks.workloads`.

A step is compiled, or a whole epoch of them by `jax.lax.scan` (`scan`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7

Model = tuple[Any, Callable[[Any, Any, Any], Any]]  # (parameters, (parameters, x, key) -> outputs; logits for classes)


def _glorot(key: Any, shape: tuple[int, ...]) -> Any:
    receptive = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1])))
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


def _dense(key: Any, *shape: int) -> dict[str, Any]:
    return {"w": _glorot(key, shape), "b": jnp.zeros(shape[-1])}


def _apply(p: dict[str, Any], x: Any) -> Any:
    return x @ p["w"] + p["b"]


def _dropout(key: Any, x: Any, rate: float) -> Any:
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def _linear(keys: Any) -> Model:
    return _dense(keys[0], 1, 1), lambda p, x, key: _apply(p, x)


def _mlp(keys: Any) -> Model:
    def forward(p: Any, x: Any, key: Any) -> Any:
        return _apply(p[1], _dropout(key, jax.nn.relu(_apply(p[0], x)), 0.2))

    return [_dense(keys[0], 784, 128), _dense(keys[1], 128, 10)], forward


def _deep(keys: Any) -> Model:
    def forward(p: Any, x: Any, key: Any) -> Any:
        for each in p[:-1]:
            x = jax.nn.relu(_apply(each, x))
        return _apply(p[-1], x)

    return [*(_dense(keys[i], 64, 64) for i in range(10)), _dense(keys[10], 64, 10)], forward


def _lstm(keys: Any) -> Model:
    bias = jnp.zeros(200).at[50:100].set(1.0)
    start = {"k": _glorot(keys[0], (1, 200)), "r": jax.nn.initializers.orthogonal()(keys[1], (50, 200)), "b": bias}

    def forward(p: Any, x: Any, key: Any) -> Any:
        def cell(carry: Any, row: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(row @ p["k"] + h @ p["r"] + p["b"], 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zero = jnp.zeros((x.shape[0], 50))
        (h, _), _ = jax.lax.scan(cell, (zero, zero), x.swapaxes(0, 1))
        return _apply(p["d"], h)

    return {**start, "d": _dense(keys[2], 50, 1)}, forward


def _cnn(keys: Any) -> Model:
    def conv(p: Any, x: Any) -> Any:
        x = jax.lax.conv_general_dilated(x, p["w"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + p["b"])
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def forward(p: Any, x: Any, key: Any) -> Any:
        x = conv(p[1], conv(p[0], x))
        return _apply(p[2], x.reshape(x.shape[0], -1))

    return [_dense(keys[0], 3, 3, 1, 16), _dense(keys[1], 3, 3, 16, 32), _dense(keys[2], 800, 10)], forward


def _norm(p: Any, x: Any, axes: tuple[int, ...] = (-1,)) -> Any:
    """A layer's or, over all axes but the last, a batch's. The batch's moving averages are left out: no step needs them."""
    centered = x - x.mean(axes, keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(axes, keepdims=True) + 1e-3) * p["g"] + p["b"]


def _scale(width: int) -> dict[str, Any]:
    return {"g": jnp.ones(width), "b": jnp.zeros(width)}


def _words(key: Any, words: int, width: int) -> Any:
    return jax.random.uniform(key, (words, width), jnp.float32, -0.05, 0.05)


def _transformer(words: int, width: int, heads: int, blocks: int) -> Callable[[Any], Model]:
    def block(keys: Any) -> dict[str, Any]:
        start: dict[str, Any] = {name: _dense(keys[i], width, width) for i, name in enumerate("qkvo")}
        start |= {"f1": _dense(keys[4], width, 2 * width), "f2": _dense(keys[5], 2 * width, width)}
        return start | {"n1": _scale(width), "n2": _scale(width)}

    def forward(p: Any, x: Any, key: Any) -> Any:
        h = p["e"][x]
        for each, used in zip(p["blocks"], jax.random.split(key, blocks)):
            q, k, v = (_apply(each[name], h).reshape(*h.shape[:2], heads, width // heads) for name in "qkv")
            weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(width // heads))
            mixed = jnp.einsum("bhts,bshd->bthd", _dropout(used, weights, 0.1), v)
            h = _norm(each["n1"], h + _apply(each["o"], mixed.reshape(h.shape)))
            h = _norm(each["n2"], h + _apply(each["f2"], jax.nn.relu(_apply(each["f1"], h))))
        return _apply(p["c"], h.mean(1))

    def make(keys: Any) -> Model:
        body = [block(keys[2 + 6 * i : 8 + 6 * i]) for i in range(blocks)]
        return {"e": _words(keys[0], words, width), "c": _dense(keys[1], width, 2), "blocks": body}, forward

    return make


def _resnet(keys: Any) -> Model:
    def start(key: Any, size: int, channels: int, filters: int) -> dict[str, Any]:
        return {"w": _glorot(key, (size, size, channels, filters)), **_scale(filters)}

    def conv(p: Any, x: Any, stride: int = 1) -> Any:
        x = jax.lax.conv_general_dilated(x, p["w"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return _norm(p, x, (0, 1, 2))

    def forward(p: Any, x: Any, key: Any) -> Any:
        h = jax.nn.relu(conv(p["first"], x))
        for each, stride in zip(p["blocks"], (1, 2, 2)):
            inner = conv(each[1], jax.nn.relu(conv(each[0], h, stride)))
            h = jax.nn.relu(inner + (h if stride == 1 else conv(each[2], h, stride)))
        return _apply(p["last"], h.mean((1, 2)))

    blocks = []
    for i, (channels, filters) in enumerate(((16, 16), (16, 32), (32, 64))):
        shapes = [(3, channels, filters), (3, filters, filters), (1, channels, filters)][: 2 if i == 0 else 3]
        blocks.append([start(keys[2 + 3 * i + j], *shape) for j, shape in enumerate(shapes)])
    return {"first": start(keys[0], 3, 3, 16), "last": _dense(keys[1], 64, 10), "blocks": blocks}, forward


def _autoencoder(keys: Any) -> Model:
    sizes = (784, 256, 64, 256, 784)
    _, forward = _deep(keys)
    return [_dense(keys[i], *shape) for i, shape in enumerate(itertools.pairwise(sizes))], forward


def _embedding(keys: Any) -> Model:
    start = {"e": _words(keys[0], 100_000, 32), "d": _dense(keys[1], 32, 2)}
    return start, lambda p, x, key: _apply(p["d"], p["e"][x].mean(1))


MODELS: dict[str, Callable[[Any], Model]] = {
    "linear": _linear,
    "mlp": _mlp,
    "deep": _deep,
    "lstm": _lstm,
    "cnn": _cnn,
    "transformer": _transformer(100, 32, 2, 1),
    "resnet": _resnet,
    "transformer_large": _transformer(1000, 256, 4, 2),
    "autoencoder": _autoencoder,
    "embedding": _embedding,
    "mlp_1": _mlp,
    "mlp_1024": _mlp,
}


def epochs(name: str, x: np.ndarray, y: np.ndarray, batch: int, how: str, on: str) -> tuple[int, Callable[[], float]]:
    """(parameters, a function that trains one more epoch, shuffled, and returns its mean loss).

    Args:
      name: the workload. x, y: its data. batch: rows in a step. how: "" or "scan". on: "cpu" or "gpu".
    """
    if jax.default_backend() != on:
        raise RuntimeError(f"JAX would run on {jax.default_backend()}")
    parameters, forward = MODELS[name](jax.random.split(jax.random.key(0), 20))
    classes = y.ndim == 1
    x, y = jnp.asarray(x), jnp.asarray(y)

    def loss_of(p: Any, xb: Any, yb: Any, key: Any) -> Any:
        out = forward(p, xb, key)
        if not classes:
            return jnp.mean((out - yb) ** 2), 0.0
        picked = jnp.take_along_axis(jax.nn.log_softmax(out), yb[:, None], 1)
        return -jnp.mean(picked), jnp.sum(out.argmax(1) == yb)

    def step(state: Any, rows: Any) -> Any:
        p, m, v, t, key, total, right = state
        key, used = jax.random.split(key)
        (loss, correct), g = jax.value_and_grad(loss_of, has_aux=True)(p, x[rows], y[rows], used)
        t = t + 1
        m = jax.tree.map(lambda a, b: a + (b - a) * (1 - BETA_1), m, g)
        v = jax.tree.map(lambda a, b: a + (b * b - a) * (1 - BETA_2), v, g)
        alpha = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        p = jax.tree.map(lambda w, a, b: w - alpha * a / (jnp.sqrt(b) + EPSILON), p, m, v)
        return (p, m, v, t, key, total + loss, right + correct), loss

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = [(parameters, zeros, zeros, 0.0, jax.random.key(1), 0.0, 0.0)]
    run = jax.jit(lambda state, order: jax.lax.scan(step, state, order)) if how == "scan" else jax.jit(step)
    random = np.random.default_rng(0)

    def epoch() -> float:
        order = random.permutation(len(x)).reshape(-1, batch)
        start = (*state[0][:5], 0.0, 0.0)
        if how == "scan":
            state[0], _ = run(start, jnp.asarray(order))
        else:
            for rows in order:
                start, _ = run(start, rows)
            state[0] = start
        return float(state[0][5]) / len(order)

    return sum(int(each.size) for each in jax.tree.leaves(parameters)), epoch
