"""How far is the fast tier from the exact one?

    python -m benchmarks.fast_distance [--workload=mlp] [--steps=64] [--device=cpu] [--json=FILE]

An exact training is followed for so many steps. At each, a model with the very same state (weights, optimizer, random seeds)
takes that step by each plan of the fast tier; printed is the largest |u_fast - u_exact| / |u_exact|, with u the step's update of
all weights. It must be less than STEP, as WORKSPACE.md promises. Beside it stands, as information, how far trainings that are
left to themselves have parted after as many steps, in units of the way gone: two roundings of one training part as fast as the
model lets them, so `nudged` is an exact training whose first weights differ by one unit in the last place, up or down.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.workloads import WORKLOADS, Workload

STEP = 1e-4
PLANS = ("graph", "xla")

FLAGS = flags.FLAGS


def made(workload: Workload) -> keras.Model:
    """The workload's model; always the same weights, and the optimizer's variables there."""
    keras.utils.set_random_seed(1)
    model = workload.build()
    model.optimizer.build(model.trainable_variables)
    return model


def state(model: keras.Model) -> list[keras.Variable]:
    """All that a step changes."""
    return [*model.variables, *model.optimizer.variables]


def weights(model: keras.Model) -> np.ndarray:
    """All trainable ones in one vector, float64."""
    return np.concatenate([variable.numpy().ravel().astype(np.float64) for variable in model.trainable_variables])


def momenta(model: keras.Model) -> np.ndarray:
    """Adam's running means of the gradients in one vector, float64."""
    return np.concatenate([m.numpy().ravel().astype(np.float64) for m in model.optimizer._momentums])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| in units of |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def of_single_steps(workload: Workload, steps: int) -> dict[str, float]:
    """By plan: the largest distance of an update from the exact one, both from the exact training's state."""
    exact, others = made(workload), {plan: made(workload) for plan in (*PLANS, "nudged")}
    x, y = workload.data(steps * workload.batch)
    most = dict.fromkeys([*others, *(f"{p} gradient" for p in others)], 0.0)
    for i in range(steps):
        rows = slice(i * workload.batch, (i + 1) * workload.batch)
        start, mean = weights(exact), momenta(exact)
        for other in others.values():
            for mine, its in zip(state(other), state(exact)):
                mine.assign(its)
        fitcore.fit(exact, x[rows], y[rows], batch_size=workload.batch, shuffle=False, verbose=0)
        update, gradient = weights(exact) - start, momenta(exact) - 0.9 * mean
        for plan, other in others.items():
            how = {"numerics": "fast", "plan": plan}
            begin=start
            if plan=="nudged":
                nudge(other); how={}; begin=weights(other)
            fitcore.fit(other, x[rows], y[rows], batch_size=workload.batch, shuffle=False, verbose=0, **how)
            most[plan] = max(most[plan], distance(weights(other) - begin, update))
            most[plan + " gradient"] = max(most[plan + " gradient"], distance(momenta(other) - 0.9 * mean, gradient))
    return most


def nudge(model: keras.Model) -> None:
    """Move each weight by one unit in the last place, up or down."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        value = variable.numpy()
        towards = np.where(random.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
        variable.assign(np.nextafter(value, towards))


def way(workload: Workload, steps: int, nudged: bool = False, **how: Any) -> np.ndarray:
    """How far all weights have gone after so many steps."""
    model = made(workload)
    start = weights(model)
    if nudged:
        nudge(model)
    x, y = workload.data(steps * workload.batch)
    fitcore.fit(model, x, y, batch_size=workload.batch, verbose=0, **how)
    return weights(model) - start


def measure(workload: Workload, steps: int) -> dict[str, dict[str, float]]:
    """"step": by plan, of single steps; "after": by plan and for the nudged one, of trainings left to themselves."""
    found = of_single_steps(workload, steps)
    keras.backend.clear_session()
    exact = way(workload, steps)
    ways = {plan: way(workload, steps, numerics="fast", plan=plan) for plan in PLANS}
    ways["nudged"] = way(workload, steps, nudged=True)
    keras.backend.clear_session()
    return {"step": found, "after": {name: distance(each, exact) for name, each in ways.items()}}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    chosen = device.use()
    print(f"{about.line(chosen)}; largest distance of one step's update in {FLAGS.steps}, and of the way gone after them")
    rows, missed = [], False
    for name in FLAGS.workload or WORKLOADS:
        found = measure(WORKLOADS[name], FLAGS.steps)
        good = all(distance < STEP for distance in found["step"].values())
        missed |= not good
        rows.append({"workload": name, **found})
        step, after = ("  ".join(f"{which} {value:.1e}" for which, value in found[what].items()) for what in found)
        print(f"{name:17s} one step: {step}  {'within' if good else 'BEYOND'}    after all: {after}", flush=True)
    print(f"fast_distance: {len(rows)} workloads, each step within {STEP:g} of exact: {'no' if missed else 'yes'}")
    if FLAGS.json:
        about.write(FLAGS.json, "fast_distance", {"steps": FLAGS.steps, "rows": rows}, chosen)
    sys.exit(missed)


if __name__ == "__main__":
    flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Which workload; several may be given. Default: all.")
    flags.DEFINE_integer("steps", 64, "Steps of the longer training.", lower_bound=2)
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    device.define()
    app.run(main)
