"""The workloads in plain JAX: the same layers, initializers, loss, metric and Adam as in `benchmarks.workloads`.

A step is compiled, or a whole epoch of them by `jax.lax.scan` (`scan`).
"""

from __future__ import annotations

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


def _transformer(keys: Any) -> Model:
    start: dict[str, Any] = {name: _dense(keys[i], 32, 32) for i, name in enumerate("qkvo")}
    start |= {"e": jax.random.uniform(keys[4], (100, 32), jnp.float32, -0.05, 0.05), "c": _dense(keys[5], 32, 2)}
    start |= {"f1": _dense(keys[6], 32, 64), "f2": _dense(keys[7], 64, 32)}
    start |= {name: {"g": jnp.ones(32), "b": jnp.zeros(32)} for name in ("n1", "n2")}

    def norm(p: Any, x: Any) -> Any:
        centered = x - x.mean(-1, keepdims=True)
        return centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-3) * p["g"] + p["b"]

    def forward(p: Any, x: Any, key: Any) -> Any:
        h = p["e"][x]
        q, k, v = (_apply(p[name], h).reshape(*h.shape[:2], 2, 16) for name in "qkv")
        weights = _dropout(key, jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / 4), 0.1)
        h = norm(p["n1"], h + _apply(p["o"], jnp.einsum("bhts,bshd->bthd", weights, v).reshape(h.shape)))
        h = norm(p["n2"], h + _apply(p["f2"], jax.nn.relu(_apply(p["f1"], h))))
        return _apply(p["c"], h.mean(1))

    return start, forward


MODELS: dict[str, Callable[[Any], Model]] = {
    "linear": _linear,
    "mlp": _mlp,
    "deep": _deep,
    "lstm": _lstm,
    "cnn": _cnn,
    "transformer": _transformer,
}


def epochs(name: str, x: np.ndarray, y: np.ndarray, batch: int, how: str) -> tuple[int, Callable[[], float]]:
    """(parameters, a function that trains one more epoch, shuffled, and returns its mean loss). `how`: "" or "scan"."""
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
