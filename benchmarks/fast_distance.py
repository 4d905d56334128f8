"""How far is the fast tier from the exact one?

    python -m benchmarks.fast_distance [--workload=mlp] [--steps=64] [--device=cpu] [--json=FILE]

An exact training is followed for so many steps. At each, a model of the very same state (weights, optimizer, random seeds)
takes that step by each plan of the fast tier; printed is the largest |u_fast - u_exact| / |u_exact|, with u the step's update
of all weights. It must be less than STEP, or less than TIMES what `nudged` is: an exact step from weights that differ by one
unit in the last place, up or down. That is how sharply float32 knows the update itself: behind a batch normalization of few
values, or where Adam divides a gradient that is nothing but rounding by its own size, it is known to few digits.

Beside it stands how far whole trainings have parted after as many steps, in units of the way gone: as information, for two
roundings of one training part as fast as the model lets them.
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
TIMES = 10.0
PLANS = ("graph", "xla")
WAYS = (*PLANS, "nudged")

FLAGS = flags.FLAGS


def made(workload: Workload) -> keras.Model:
    """The workload's model; always the same weights, with the optimizer's variables there."""
    keras.utils.set_random_seed(1)
    model = workload.build()
    model.optimizer.build(model.trainable_variables)
    return model


def weights(model: keras.Model) -> np.ndarray:
    """All trainable ones in one vector, float64."""
    return np.concatenate([variable.numpy().ravel().astype(np.float64) for variable in model.trainable_variables])


def nudge(model: keras.Model) -> None:
    """Move each weight by one unit in the last place, up or down."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        value = variable.numpy()
        towards = np.where(random.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
        variable.assign(np.nextafter(value, towards))


def way(model: keras.Model, how: str, x: Any, y: Any, batch: int) -> np.ndarray:
    """How far all weights go in an epoch."""
    if how == "nudged":
        nudge(model)
    start = weights(model)
    arguments: dict[str, Any] = {"numerics": "fast", "plan": how} if how in PLANS else {}
    fitcore.fit(model, x, y, batch_size=batch, shuffle=False, verbose=0, **arguments)
    return weights(model) - start


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| in units of |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def measure(workload: Workload, steps: int) -> dict[str, dict[str, float]]:
    """By way, "step": the largest distance of one step; "after": of all of them at once."""
    x, y = workload.data(steps * workload.batch)
    exact, others = made(workload), {how: made(workload) for how in WAYS}
    step = dict.fromkeys(WAYS, 0.0)
    for i in range(0, len(x), workload.batch):
        batch = x[i : i + workload.batch], y[i : i + workload.batch], workload.batch
        for model in others.values():
            mine, its = ([*each.variables, *each.optimizer.variables] for each in (model, exact))
            for variable, value in zip(mine, its):
                variable.assign(value)
        update = way(exact, "exact", *batch)
        step |= {how: max(step[how], distance(way(model, how, *batch), update)) for how, model in others.items()}
    whole = way(made(workload), "exact", x, y, workload.batch)
    after = {how: distance(way(made(workload), how, x, y, workload.batch), whole) for how in WAYS}
    keras.backend.clear_session()
    return {"step": step, "after": after}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    chosen = device.use()
    print(f"{about.line(chosen)}; distance from exact in one step, the largest of {FLAGS.steps}, and after all of them")
    names = " ".join(f"{how:>8s}" for how in WAYS)
    print(f"{'workload':17s} {names}          {names}")
    rows: list[dict[str, Any]] = []
    for name in FLAGS.workload or WORKLOADS:
        found = measure(WORKLOADS[name], FLAGS.steps)
        within = max(found["step"][plan] for plan in PLANS) < max(STEP, TIMES * found["step"]["nudged"])
        rows.append({"workload": name, "within": within, **found})
        step, after = (" ".join(f"{each[how]:8.1e}" for how in WAYS) for each in found.values())
        print(f"{name:17s} {step}  {'within' if within else 'BEYOND'}  {after}", flush=True)
    beyond = [row["workload"] for row in rows if not row["within"]]
    print(f"fast_distance: {FLAGS.steps} steps of {len(rows)} workloads, beyond the tolerance: {', '.join(beyond) or 'none'}")
    if FLAGS.json:
        about.write(FLAGS.json, "fast_distance", {"steps": FLAGS.steps, "rows": rows}, chosen)
    sys.exit(bool(beyond))


if __name__ == "__main__":
    flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Which workload; several may be given. Default: all.")
    flags.DEFINE_integer("steps", 64, "How many steps.", lower_bound=1)
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    device.define()
    app.run(main)
