"""Seconds of steps and of all-reduces, measured on local worker processes, and what the model predicts of them."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.workers.model import Cluster, Compute, Link, fit_compute, fit_link

SIZES = (1_000, 50_000, 200_000, 1_000_000)  # bytes of the all-reduces that a link is fitted to
SPREAD_STEPS = 400

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclasses.dataclass(frozen=True)
class Times:
    """What so many workers took, in seconds, a value for each round of measurements.

    Attributes:
      workers: how many.
      steps: of a step, by the batch size of all workers together.
      all_reduce: of an all-reduce alone, by its bytes.
      gradient_bytes: what a step sums.
      collectives: in how many all-reduces.
      cores: that all workers share.
      spread: of single steps of one worker; empty for several.
    """

    workers: int
    steps: dict[int, list[float]]
    all_reduce: dict[int, list[float]]
    gradient_bytes: int
    collectives: int
    cores: int
    spread: list[float]


def measure(workers: int, batches: Sequence[int], rounds: int, hidden: int, folder: Path) -> Times:
    """Start so many workers of `experiments.workers.timing`, which write into `folder`; ends the process if they fail."""
    out = folder / f"workers-{workers}.json"
    arguments = [f"--out={out}", f"--rounds={rounds}", f"--hidden={hidden}", *(f"--batch={batch}" for batch in batches)]
    arguments += [f"--spread={SPREAD_STEPS}"] if workers == 1 else [f"--bytes={size}" for size in SIZES]
    cluster = [sys.executable, "-m", "fitcore.cluster", f"--workers={workers}"]
    done = subprocess.run(
        [*cluster, "-m", "experiments.workers.timing", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=_end_with_this_process,
    )
    if done.returncode:
        sys.exit(
            f"Timing {workers} workers failed with exit status {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    found = json.loads(out.read_text())
    steps, all_reduce = ({int(key): times for key, times in found[name].items()} for name in ("steps", "all_reduce"))
    return Times(
        workers, steps, all_reduce, found["gradient_bytes"], found["collectives"], found["cores"], found.get("spread", [])
    )


def _end_with_this_process() -> None:
    """In the process that starts the workers: be asked to end, and so end them, when this one ends, however it does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def fitted(one: Times, two: Times) -> list[Cluster]:
    """This machine as the model sees it, once for each round.

    Args:
      one: steps of one worker, which the compute is fitted to.
      two: all-reduces alone, which the link is fitted to, and how many a step makes; no time of their steps is looked at.
    """
    clusters = []
    for i in range(len(next(iter(one.steps.values())))):
        compute = fit_compute(list(one.steps), [times[i] for times in one.steps.values()])
        share = max(1.0, two.workers / two.cores)  # the link is that of a worker with a core of its own
        link = fit_link(two.workers, list(two.all_reduce), [times[i] / share for times in two.all_reduce.values()])
        clusters.append(Cluster(compute, link, one.gradient_bytes, two.collectives, one.spread or (1.0,), one.cores))
    return clusters


def typical(clusters: Sequence[Cluster]) -> Cluster:
    """Each parameter's median over the rounds."""
    fixed, per_example, latency, bandwidth = (
        statistics.median(values)
        for values in zip(
            *((c.compute.fixed, c.compute.per_example, c.link.latency, c.link.bandwidth) for c in clusters),
        )
    )
    return dataclasses.replace(clusters[0], compute=Compute(fixed, per_example), link=Link(latency, bandwidth))
