"""Is the measured gradient noise right?

    python -m benchmarks.noise_accuracy [--only=layers] [--case=NAME] [--device=cpu] [--json=FILE]

    layers      every case of benchmarks/noise_cases.py against one backward pass per example, in float64 and float32;
                the fallback and the split estimator on layers that have a rule; and the stopping criterion
    closed      linear regression, whose noise is known: means over 10,000 batches within 4 standard errors; and the
                evidence-based stopping criterion on normal gradients, with and without a signal
    intervals   of 2,000 simulated runs each, how many 95 % intervals hold the true noise scale

Linear regression: y = x^T w* + eps, x ~ N(0, diag(lambda)), eps ~ N(0, sigma^2), loss (x^T w - y)^2 / 2, e = w - w*. With
H = diag(lambda): G = H e, and g = x (x^T e - eps), so that E[g g^T] = 2 H e e^T H + (e^T H e + sigma^2) H (Isserlis), hence
Sigma = H e e^T H + (e^T H e + sigma^2) H and tr(Sigma) = |H e|^2 + (e^T H e + sigma^2) tr(H).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.noise_cases import NOISE_CASES, NoiseCase
from benchmarks.noise_reference import compare, per_example_gradients, variables_of
from benchmarks.noise_reference import measure as measure_case
from fitcore.noise import GradientNoise
from fitcore.noise.calls import RULES
from fitcore.noise.statistics import estimate, running_ratio

FLAGS = flags.FLAGS
KINDS = ("layers", "closed", "intervals")
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}
BY_FALLBACK = ("dense", "conv2d", "layer_norm", "separable_conv", "tied_weights")
EVIDENCE = (
    "dense",
    "dense_time_gram",
    "conv2d",
    "einsum_dense",
    "embedding",
    "lstm",
    "layer_norm",
    "regularized",
    "shared_layers",
    "fallback",
)
BY_SPLIT = ("dense", "conv2d", "lstm", "embedding", "regularized", "sample_weights")

Row = dict[str, Any]


def row(name: str, what: str, value: float, bound: str, met: bool, **more: Any) -> Row:
    return {"name": name, "what": what, "value": value, "bound": bound, "met": bool(met), **more}


# --- layers ---------------------------------------------------------------------------------------------------------------


def layer_rows(names: list[str]) -> Iterator[Row]:
    """Every case in both precisions; then other estimators on some."""
    for dtype, tolerance in TOLERANCE.items():
        keras.config.set_floatx(dtype)
        for name in names:
            compared = compare(NOISE_CASES[name])
            how = sorted(set(compared.how.values()))
            bound = f"<= {tolerance:g}"
            yield row(name, dtype, compared.error, bound, compared.error <= tolerance, layer=compared.layer, how=how)
    keras.config.set_floatx("float64")
    for name in sorted(set(BY_FALLBACK) & set(names)):
        with mock.patch.dict(RULES, clear=True):
            compared = compare(NOISE_CASES[name])
        assert all("fallback" in how for how in compared.how.values()), compared.how
        yield row(name, "float64, fallback", compared.error, "<= 1e-06", compared.error <= 1e-6, layer=compared.layer)
    for name in sorted(set(BY_SPLIT) & set(names)):
        error = split_error(NOISE_CASES[name])
        yield row(name, "float64, split", error, "<= 1e-06", error <= 1e-6)
    for name in sorted(set(EVIDENCE) & set(names)):
        error = evidence_error(NOISE_CASES[name])
        yield row(name, "float64, evidence", error, "<= 1e-06", error <= 1e-6)
    keras.config.set_floatx("float32")


def evidence_error(case: NoiseCase) -> float:
    """Relative error of the stopping criterion to its formula on brute force's gradients. Float64."""
    model, arguments, before, noise = measure_case(case, GradientNoise(estimator="per_example", evidence=True))
    for variable, value in zip(variables_of(model), before):
        variable.assign(value)
    data = [arguments.get(name) for name in ("x", "y", "sample_weight")]
    total, count = 0.0, 0
    for variable, g in zip(model.trainable_variables, per_example_gradients(model, data, model.trainable_variables)):
        n, there = len(g), (g != 0).any(0)
        mean = g.mean(0)
        if variable.regularizer is not None:
            with tf.GradientTape() as tape:
                penalty = variable.regularizer(variable.value)
            mean += tape.gradient(penalty, variable.value).numpy()
        variance = np.maximum(g.var(0, ddof=1), 1e-6 * (g**2).sum(0) / (n - 1))
        total += (mean[there] ** 2 / variance[there]).sum()
        count += there.sum()
    expected = 1 - (n - 3) / (n - 1) * n / count * total
    assert noise.evidence is not None
    return abs(float(noise.evidence[0]) - expected) / abs(1 - expected)


def split_error(case: NoiseCase, k: int = 3) -> float:
    """Relative error of the split estimator's tr(Sigma) to the same formula on brute force's gradients."""
    model, arguments, _, noise = measure_case(case, GradientNoise(estimator="split", splits=k))
    data = [arguments.get(name) for name in ("x", "y", "sample_weight")]
    size = len(keras.tree.flatten(arguments["x"])[0]) // k
    trace = grad = 0.0
    for g in per_example_gradients(model, data, model.trainable_variables):
        parts = g.reshape(len(g), -1)[: size * k].reshape(k, size, -1).mean(1)
        mean = parts.mean(0)
        t, n = estimate(((parts - mean) ** 2).sum(), (mean**2).sum(), k, size)
        trace, grad = trace + float(t), grad + float(n)
    return max(abs(noise.trace[0] - trace) / trace, abs(noise.grad_norm_sq[0] - grad) / (abs(grad) + trace / (k * size)))


# --- closed forms ---------------------------------------------------------------------------------------------------------

LAMBDA, ERROR, SIGMA = np.array([2.0, 1.0, 0.5, 0.25]), np.array([0.3, -0.4, 0.5, 0.2]), 0.7


def truth() -> tuple[float, float]:
    """(tr(Sigma), |G|^2) of the linear regression."""
    he = LAMBDA * ERROR
    return float(he @ he + (ERROR @ he + SIGMA**2) * LAMBDA.sum()), float(he @ he)


def linear_data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, len(LAMBDA))) * np.sqrt(LAMBDA)
    return x, SIGMA * random.normal(size=(rows, 1))


def linear_model() -> keras.Model:
    """The regression, at weights that are e away from the best and stay there."""
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input((len(LAMBDA),)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), lambda a, b: 0.5 * tf.reduce_sum(tf.square(a - b), -1))
    model.layers[0].set_weights([ERROR[:, None]])
    return model


def closed_rows(batches: int = 10_000, n: int = 16) -> Iterator[Row]:
    """Means over many batches at frozen weights, by each estimator inside the compiled loop."""
    keras.config.set_floatx("float64")
    x, y = linear_data(batches * n, seed=1)
    estimators = {
        "per_example": (GradientNoise("per_example"), {}),
        "fallback": (GradientNoise("per_example"), dict(RULES)),
        "4 of 16 rows": (GradientNoise("per_example", examples=4), dict(RULES)),
        "split 2": (GradientNoise("split", splits=2), {}),
        "split 8": (GradientNoise("split", splits=8), {}),
    }
    for name, (config, hidden) in estimators.items():
        model = linear_model()
        with mock.patch.dict(RULES, clear=bool(hidden)):
            noise = fitcore.fit(model, x, y, batch_size=n, shuffle=False, verbose=0, noise=config).noise
        for quantity, measured, true in zip(("trace", "grad_norm_sq"), (noise.trace, noise.grad_norm_sq), truth()):
            error = (measured.mean() - true) / (measured.std(ddof=1) / np.sqrt(len(measured)))
            more = {"mean": float(measured.mean()), "true": true, "batches": len(measured)}
            yield row(name, f"bias of {quantity}, standard errors", float(error), "|.| <= 4", abs(error) <= 4, **more)
    model, config = linear_model(), GradientNoise("per_example", hessian_every=1)
    full = fitcore.fit(model, x, y, batch_size=n, shuffle=False, verbose=0, noise=config).noise.hessian
    h, h3 = LAMBDA, float(ERROR @ (LAMBDA**3 * ERROR))
    truths = {"tr(H Sigma)": h3 + float(ERROR @ (h * ERROR) + SIGMA**2) * float((h**2).sum()), "G^T H G": h3}
    for (quantity, true), measured in zip(truths.items(), (full.trace, full.norm)):
        error = (measured.mean() - true) / (measured.std(ddof=1) / np.sqrt(len(measured)))
        more = {"mean": float(measured.mean()), "true": true, "batches": len(measured)}
        yield row("hessian", f"bias of {quantity}, standard errors", float(error), "|.| <= 4", abs(error) <= 4, **more)
    keras.config.set_floatx("float32")
    for signal in (0.0, 0.3):
        found, expected = evidence_of_normal(signal, 8, batches)
        error = (found.mean() - expected) / (found.std(ddof=1) / np.sqrt(len(found)))
        more = {"mean": float(found.mean()), "true": expected, "batches": len(found)}
        yield row("evidence", f"bias at G/sd = {signal}, st. errors", float(error), "|.| <= 4", abs(error) <= 4, **more)


def evidence_of_normal(signal: float, n: int, batches: int, d: int = 20) -> tuple[np.ndarray, float]:
    """(the stopping criterion of so many batches of n normal gradients with mean `signal` and variances about 1, its mean)."""
    keras.utils.clear_session()
    deviations = np.linspace(0.5, 2, d)
    x = (signal + np.random.default_rng(4).normal(size=(batches * n, d))) * deviations
    model = keras.Sequential([keras.Input((d,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), lambda y_true, y_pred: tf.reduce_sum(y_pred, -1))  # whose gradients are the x
    config = GradientNoise(evidence=True)
    history = fitcore.fit(model, x, np.zeros((len(x), 1)), batch_size=n, shuffle=False, verbose=0, noise=config)
    return history.steps["noise/evidence"], -n * signal**2


# --- intervals --------------------------------------------------------------------------------------------------------------


def interval_rows(runs: int = 2000) -> Iterator[Row]:
    """Coverage of the running ratio's interval, on linear regression's per-example gradients (n = 32) in NumPy."""
    true = truth()[0] / truth()[1]
    n, steps = 32, 200
    traces, grads = np.empty((steps, runs)), np.empty((steps, runs))
    for t in range(steps):
        x, eps = linear_data(runs * n, seed=1000 + t)
        g = (x * (x @ ERROR - eps[:, 0])[:, None]).reshape(runs, n, -1)
        mean = g.mean(1)
        traces[t], grads[t] = estimate(((g - mean[:, None]) ** 2).sum((1, 2)), (mean**2).sum(1), n)
    for length, decay in ((50, 1.0), (200, 1.0), (200, 0.99)):
        ratio = running_ratio(traces[:length], grads[:length], np.ones((length, 1)), decay)
        inside = float(((ratio.low[-1] <= true) & (true <= ratio.high[-1])).mean())
        more = {"runs": runs, "undetermined": float(ratio.undetermined[-1].mean())}
        yield row(f"{length} steps, decay {decay}", "coverage", inside, "0.93 to 0.97", 0.93 <= inside <= 0.97, **more)
    # A weak gradient: B_simple = 500 at batch 128 in 8 micro-batches, where |G|^2^ is often negative.
    random, d, k, size, scale = np.random.default_rng(5), 20, 8, 16, 500.0
    gradient = np.full(d, np.sqrt(1.0 / scale))  # with Sigma = I: tr(Sigma) = d, |G|^2 = d/scale
    traces, grads = np.empty((steps, runs)), np.empty((steps, runs))
    for t in range(steps):
        parts = gradient + random.normal(size=(runs, k, d)) / np.sqrt(size)
        mean = parts.mean(1)
        traces[t], grads[t] = estimate(((parts - mean[:, None]) ** 2).sum((1, 2)), (mean**2).sum(1), k, size)
    for length in (50, 200):
        ratio = running_ratio(traces[:length], grads[:length], np.ones((length, 1)))
        inside = float(((ratio.low[-1] <= scale) & (scale <= ratio.high[-1])).mean())
        more = {"runs": runs, "undetermined": float(ratio.undetermined[-1].mean())}
        yield row(f"B = 500, split 8, {length} steps", "coverage", inside, "0.93 to 0.97", 0.93 <= inside <= 0.97, **more)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    start = time.perf_counter()
    where = device.use()
    print(about.line(where))
    print(f"{'case':26s} {'what':38s} {'measured':>10s}  {'bound':12s}", flush=True)
    rows = []
    parts = {"layers": lambda: layer_rows(FLAGS.case or list(NOISE_CASES)), "closed": closed_rows, "intervals": interval_rows}
    for kind in FLAGS.only or (("layers",) if FLAGS.case else KINDS):
        for result in parts[kind]():
            verdict = "yes" if result["met"] else "NO"
            print(
                f"{result['name']:26s} {result['what']:38s} {result['value']:10.2g}  {result['bound']:12s}  {verdict}",
                flush=True,
            )
            rows.append(result)
    if FLAGS.json:
        about.write(FLAGS.json, "noise_accuracy", {"rows": rows, "seconds": time.perf_counter() - start}, where)
    met = sum(result["met"] for result in rows)
    print(f"noise accuracy {met}/{len(rows)}")
    sys.exit(met < len(rows))


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    device.define()
    flags.DEFINE_multi_enum("only", None, list(KINDS), "Which part; may be given several times. Default: all.")
    flags.DEFINE_multi_enum("case", None, sorted(NOISE_CASES), "Compare only this case; may be given several times.")
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    app.run(main)
