"""Do more workers pay? A model of the time to a target loss, fitted on one worker, checked on two and four, carried on to 256.

    python -m experiments.scaling
    python -m experiments.scaling --latency=5 --bandwidth=100 --most_workers=1024

Time to target is seconds per step times steps. docs/scaling.md says what the model is and what came of it; in short:

    steps    trainings on real digits with plain SGD, at each batch size with its best learning rate of a grid, are held against
             S_min (1 + B_noise/B) (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.11), with S_min and B_noise taken from one
             batch size, --measured_at, alone: its steps, and the gradient noise scale that fitcore measures in its training.
    seconds  steps of one worker give the fixed seconds of a step and those of an example; all-reduces between two workers, with
             no training, the latency and the bandwidth of the link. From these the steps of 2 and 4 workers are predicted, and
             then timed. Workers are processes of this machine under MultiWorkerMirroredStrategy, each kept to one core; where
             there are fewer cores than workers all of a step is taken to last so many times as long.
    paper    the same network and target on hosts with a core such as this each, joined by a link of --latency and --bandwidth:
             how far more workers pay, by the formula, and by a simulation that passes each message.

Intervals are 95 %: over seeds for steps, over rounds of measurements for seconds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

import fitcore_terminal
from experiments import noise_scale
from experiments.claims import data
from experiments.claims.statistics import Effect, mean_of, paired_ratio
from experiments.workers import measured, steps
from experiments.workers.model import Cluster, Link, Steps, simulate
from fitcore.command_line import launch

WORKERS = flags.DEFINE_multi_integer("workers", [2, 4], "Numbers of local workers that the model is checked on.", 2)
MEASURED_AT = flags.DEFINE_integer("measured_at", 80, "The batch size whose steps and noise scale predict the others'.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each time, in turns.", 2)
LATENCY = flags.DEFINE_multi_float("latency", [50.0, 2.0], "On paper: of a message between two hosts, in microseconds.", 0.0)
BANDWIDTH = flags.DEFINE_multi_float(
    "bandwidth",
    [10.0, 200.0],
    "On paper: between two hosts, in gigabits per second and direction; one for each --latency.",
    1e-6,
)
MOST_WORKERS = flags.DEFINE_integer("most_workers", 256, "On paper: the most workers.", 2)
EFFICIENCY = flags.DEFINE_float("efficiency", 0.5, "Workers pay as long as n of them are this many times n as fast.", 0.0, 1.0)

# The trainings to the target are those of noise_scale, and their flags too: --batch, --target, --seeds, --most_steps, --hidden.
flags.adopt_module_key_flags(noise_scale)
flags.FLAGS.set_default("batch", [20, 40, 80, 200, 800, 2000])
flags.FLAGS.set_default("seeds", 5)

SIMULATED_STEPS = 200


flags.register_multi_flags_validator(
    ["batch", "workers", "measured_at"],
    lambda given: given["measured_at"] in given["batch"] and min(given["batch"]) >= max(given["workers"]),
    "--batch must hold --measured_at, and nothing below an example for each of --workers.",
)
flags.register_multi_flags_validator(
    ["latency", "bandwidth"],
    lambda given: len(given["latency"]) == len(given["bandwidth"]),
    "--bandwidth must be given as often as --latency: each pair is a link.",
)


def find_steps(seed: int) -> tuple[dict[int, list[float]], Steps, dict[str, Any]]:
    """(steps by seed, by batch size; what one batch size predicts; what goes into the result). Prints a table."""
    digits = data.digits()
    training = noise_scale.Training((digits.x, digits.y), (digits.x_test, digits.y_test))
    sweep, rates = {}, {}
    for batch in sorted(noise_scale.BATCHES.value):
        fitcore_terminal.say(f"Steps to the target at batch {batch}, at rates around the best ...")
        rates[batch], sweep[batch] = noise_scale.tuned(training, batch, seed)
    at = MEASURED_AT.value
    fitcore_terminal.say(f"The gradient noise at batch {at} ...")
    pieces = steps.noise_of_pieces(training, at, rates[at], sweep[at], seed)
    noise = steps.noise_scale(pieces)
    if not np.isfinite(noise):
        sys.exit(f"--measured_at={at}: the gradient can't be told from its noise there with --seeds={len(pieces)}")
    predicted = Steps.measured_at(at, float(np.mean(sweep[at])), noise)
    ratios = steps.predicted_over_measured(sweep, pieces, at)
    least, critical = noise_scale.trade_off(np.array(list(sweep)), np.array([np.mean(s) for s in sweep.values()]))
    scale = steps.jackknife(lambda seeds: steps.noise_scale(pieces[seeds]), len(pieces))

    print(f"{digits.about}; plain SGD until the held-out loss is {noise_scale.TARGET.value}; {len(pieces)} seeds")
    print(f"noise scale in the training at batch {at}: {scale.mean:.0f} examples ({scale.low:.0f} to {scale.high:.0f})")
    print(f"critical batch size fitted to all steps below: {critical:.0f} examples")
    print(f"{'batch':>6s} {'rate':>7s}  {'steps':30s} {'predicted':>9s}  predicted over measured")
    for batch, taken in sweep.items():
        same = "(what was measured)" if batch == at else _times(ratios[batch])
        print(f"{batch:6d} {rates[batch]:7.3f}  {mean_of(taken)!s:30s} {predicted.needed(batch):9.0f}  {same}")
    others = [ratio.mean for batch, ratio in ratios.items() if batch != at]
    print(f"predicted steps at the other batch sizes are {min(others):.2f} to {max(others):.2f} times those measured")
    found = {"steps": sweep, "rates": rates, "noise_scale": _interval(scale), "critical_batch": critical, "least": least}
    found["predicted"] = {batch: predicted.needed(batch) for batch in sweep}
    found["predicted_over_measured"] = {batch: _interval(ratio) for batch, ratio in ratios.items() if batch != at}
    return sweep, predicted, found | {"data": digits.about}


def find_seconds(run: launch.RunDirectory) -> tuple[Cluster, dict[int, measured.Times], dict[str, Any]]:
    """(this machine to the model; what was timed, by the number of workers; what goes into the result). Prints a table."""
    batches = sorted(noise_scale.BATCHES.value)
    timed = {}
    for n in sorted({1, 2, *WORKERS.value}):
        fitcore_terminal.say(f"Steps of {n} local worker{'s' * (n > 1)} ...")
        timed[n] = measured.measure(n, batches, ROUNDS.value, noise_scale.HIDDEN.value, run.path)
    clusters = measured.fitted(timed[1], timed[2])
    here = measured.typical(clusters)
    link = here.link
    print(f"\na step of one worker: {1e6 * here.compute.fixed:.0f} µs and {1e6 * here.compute.per_example:.2f} µs per example")
    print(f"an all-reduce between two: {1e6 * link.latency:.0f} µs per message, {link.bandwidth / 1e6:.0f} MB/s", end="; ")
    print(f"a step sums {here.gradient_bytes:,} bytes in {here.collectives} all-reduces; {here.cores} cores")
    print(f"{'workers':>7s} {'batch':>6s} {'µs per step':>12s} {'predicted':>10s}  predicted over measured")
    ratios: dict[int, dict[int, Effect]] = {}
    for n, times in timed.items():
        ratios[n] = {}
        for batch, seconds in times.steps.items():
            predicted = [cluster.step(n, batch) for cluster in clusters]
            ratios[n][batch] = paired_ratio(predicted, seconds)
            now, then = (1e6 * statistics.median(values) for values in (seconds, predicted))
            print(f"{n:7d} {batch:6d} {now:12.0f} {then:10.0f}  {_times(ratios[n][batch])}{' (fitted)' * (n == 1)}")
    for n in WORKERS.value:
        off = [ratio.mean for ratio in ratios[n].values()]
        reduced = [
            here.share(n) * link.all_reduce(n, size) / statistics.median(seconds)
            for size, seconds in timed[n].all_reduce.items()
        ]
        print(f"{n} workers: predicted steps last {min(off):.2f} to {max(off):.2f} times as long as measured ones;", end=" ")
        print(f"all-reduces alone {min(reduced):.2f} to {max(reduced):.2f} times")
    taken = {n: {"steps": times.steps, "all_reduce": times.all_reduce} for n, times in timed.items()}
    over = {n: {batch: _interval(ratio) for batch, ratio in each.items()} for n, each in ratios.items()}
    fit = {"fixed": here.compute.fixed, "per_example": here.compute.per_example} | vars(link)
    return here, timed, {"measured": taken, "fitted": fit, "predicted_over_measured": over, "spread": here.spread}


def to_target(
    sweep: dict[int, list[float]], predicted: Steps, here: Cluster, timed: dict[int, measured.Times]
) -> dict[str, Any]:
    """Seconds to the target on this machine, as predicted and as measured steps times measured seconds. Prints a table."""
    print(f"\nseconds to the target on this machine, predicted and (measured)\n{'batch':>7s}", end="")
    print("".join(f"{n:>9d} worker{'s' if n > 1 else ' '}" for n in timed))
    found: dict[str, dict[int, dict[int, float]]] = {"predicted": {}, "measured": {}}
    for batch, taken in sweep.items():
        row = ""
        for n, times in timed.items():
            model = here.to_target(predicted, n, batch)
            real = statistics.median(times.steps[batch]) * float(np.mean(taken))
            found["predicted"].setdefault(n, {})[batch], found["measured"].setdefault(n, {})[batch] = model, real
            row += f" {model:7.3f} ({real:.3f})"
        print(f"{batch:7d}{row}")
    for how, by_workers in found.items():
        best = {n: min(by_batch.values()) for n, by_batch in by_workers.items()}
        order = ", ".join(f"{n}: {seconds:.3f} s" for n, seconds in best.items())
        print(f"the best batch's, {how}: {order}; fastest with {min(best, key=best.__getitem__)}")
    return found


def on_paper(predicted: Steps, here: Cluster, link: Link, most: int, seed: int) -> dict[str, Any]:
    """What hosts of their own would take, joined by this link. Prints a table; `most` is the largest batch."""
    hosts = Cluster(here.compute, link, here.gradient_bytes, here.collectives, here.spread)
    counts = [n for n in (2**k for k in range(30)) if n < MOST_WORKERS.value] + [MOST_WORKERS.value]
    name = f"{1e6 * link.latency:g} µs, {link.bandwidth * 8 / 1e9:g} Gbit/s"
    print(f"\non paper: hosts with such a core each, {name} between them")
    print(f"{'workers':>7s} {'batch':>6s} {'µs per step':>12s} {'simulated':>10s}", end=" ")
    print(f"{'steps':>6s} {'seconds':>8s} {'efficiency':>10s}")
    rows = []
    for n in counts:
        batch = hosts.best_batch(predicted, n, most)
        seconds, simulated = hosts.step(n, batch), simulate(hosts, n, batch, SIMULATED_STEPS, seed)
        total, efficiency = hosts.best_time(predicted, n, most), hosts.efficiency(predicted, n, most)
        print(f"{n:7d} {batch:6.0f} {1e6 * seconds:12.0f} {1e6 * simulated:10.0f}", end=" ")
        print(f"{predicted.needed(batch):6.0f} {total:8.4f} {efficiency:10.2f}")
        rows.append({"workers": n, "batch": batch, "step": seconds, "simulated": simulated, "to_target": total})
        rows[-1]["efficiency"] = efficiency
    fastest = hosts.fastest(predicted, MOST_WORKERS.value, most)
    pays = hosts.pays(predicted, EFFICIENCY.value, MOST_WORKERS.value, most)
    print(f"fastest with {fastest}; at an efficiency of {EFFICIENCY.value:g} or more up to {pays}")
    return {"link": name, "rows": rows, "fastest": fastest, "pays": pays}


def draw(path: Any, sweep: dict[int, list[float]], predicted: Steps, here: Cluster, timed: Any, paper: Sequence[Any]) -> None:
    """Three panels: steps against batch, seconds per step against batch by workers, time to target on paper."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), dpi=100, layout="constrained")
    steps_axes, seconds_axes, paper_axes = figure.subplots(1, 3)
    batches = np.geomspace(min(sweep), max(sweep), 50)
    steps_axes.plot(batches, [predicted.needed(b) for b in batches], label=f"predicted from batch {MEASURED_AT.value}")
    means = [mean_of(taken) for taken in sweep.values()]
    spread = np.array([(m.mean - m.low, m.high - m.mean) for m in means]).T
    steps_axes.errorbar(list(sweep), [m.mean for m in means], spread, fmt="ko", capsize=3, label="measured, 95 % over seeds")
    steps_axes.set(xscale="log", yscale="log", xlabel="batch, examples", ylabel="steps to the target")
    for k, (n, times) in enumerate(timed.items()):
        seconds_axes.plot(batches, [1e3 * here.step(n, b) for b in batches], f"C{k}", label=f"{n} worker{'s' * (n > 1)}")
        seconds_axes.plot(list(times.steps), [1e3 * statistics.median(s) for s in times.steps.values()], f"C{k}o")
    seconds_axes.set(
        xscale="log", yscale="log", xlabel="batch, examples", ylabel="ms per step", title="lines predicted, dots timed"
    )
    for k, found in enumerate(paper):
        counts, times, efficiency = zip(*((row["workers"], row["to_target"], row["efficiency"]) for row in found["rows"]))
        paper_axes.plot(counts, times, f"C{k}o-", label=f"seconds to the target: {found['link']}")
        paper_axes.plot(counts, efficiency, f"C{k}s:", label="efficiency")
    paper_axes.set(xscale="log", yscale="log", xlabel="workers with a host each, on paper")
    for axes in (steps_axes, seconds_axes, paper_axes):
        axes.legend()
    figure.savefig(path, metadata={"Software": None})


def _times(ratio: Effect) -> str:
    return f"{ratio.mean:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _interval(effect: Effect) -> dict[str, float]:
    return {"mean": effect.mean, "low": effect.low, "high": effect.high}


def main(run: launch.RunDirectory) -> dict[str, Any]:
    sweep, predicted, found = find_steps(run.seed)
    here, timed, seconds = find_seconds(run)
    seconds["to_target"] = to_target(sweep, predicted, here, timed)
    links = [Link(latency * 1e-6, bandwidth * 1e9 / 8) for latency, bandwidth in zip(LATENCY.value, BANDWIDTH.value)]
    seconds["on_paper"] = [on_paper(predicted, here, link, max(sweep), run.seed) for link in links]
    draw(run.path / "scaling.png", sweep, predicted, here, timed, seconds["on_paper"])
    print(f"\nPicture: {run.path / 'scaling.png'}")
    return found | {"seconds": seconds}


if __name__ == "__main__":
    launch.run(main)
