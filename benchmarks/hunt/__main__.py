"""Hunts for models that fitcore trains otherwise than Keras: `python -m benchmarks.hunt [--minutes=30] [--seed=S] [--out=DIR]`.

Random models, data, options and callbacks are trained by Keras twice and by fitcore: exactly, and in one or two of these ways:
with the gradient noise, with records and hooks, cut in two and resumed, in the fast tier. All bytes must be Keras's, or in the
fast tier the first step near enough. What fails is made as small as can be, and left in --out as a program that stands alone.

A case is a function of seed and index (`--only=INDEX` runs it alone), and of Keras's version. Processes have settings of their
own: oneDNN on and off, the CPU's features that it may use, numbers of threads. One process runs at a time.
"""

from __future__ import annotations

import collections
import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

BLOCK = 16  # cases in a process: importing TensorFlow takes as long as a case or two
SETTINGS: tuple[dict[str, Any], ...] = (
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "1"}},
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "0"}},
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "1"}, "threads": {"intra": 1, "inter": 1}},
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "0"}, "threads": {"intra": 1, "inter": 1}},
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}},
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "0"}, "threads": {"intra": 4, "inter": 2}},
    {"environment": {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"}, "threads": {"intra": 4}},
)
ALONE = 300.0  # seconds that a printed script may take


def setting_of(index: int) -> dict[str, Any]:
    return SETTINGS[index // BLOCK % len(SETTINGS)]


def named(setting: dict[str, Any]) -> str:
    """A setting in a line."""
    environment, threads = setting["environment"], setting.get("threads", {})
    parts = [
        f"oneDNN {'on' if environment['TF_ENABLE_ONEDNN_OPTS'] == '1' else 'off'}",
        environment.get("ONEDNN_MAX_CPU_ISA", ""),
    ]
    return ", ".join(part for part in (*parts, *(f"{name} threads {count}" for name, count in threads.items())) if part)


class Count:
    """What was found so far."""

    def __init__(self) -> None:
        self.cases: collections.Counter[str] = collections.Counter()  # by setting
        self.verdicts: collections.Counter[tuple[str, str]] = collections.Counter()  # by variant and verdict
        self.kinds: collections.Counter[tuple[str, str]] = collections.Counter()
        self.said: collections.Counter[str] = collections.Counter()  # why invalid, refused
        self.failures: list[dict[str, Any]] = []
        self.known: list[dict[str, Any]] = []  # kinds of them, as `known.Known` has them
        self.again: collections.Counter[str] = collections.Counter()  # failures of a kind that was known

    def take(self, setting: str, message: dict[str, Any]) -> None:
        """Counts a case's results."""
        results = message["results"]
        if results[0]["verdict"] not in ("invalid",):
            self.cases[setting] += 1
            self.kinds.update((theme, what) for theme, what in message["kinds"])
        for each in results:
            self.verdicts[each["variant"], each["verdict"]] += 1
            if each["verdict"] in ("invalid", "refused", "unlike itself"):
                self.said[f"{each['variant']} {each['verdict']}: {each['says'][:110]}"] += 1

    def seen_again(self, message: dict[str, Any]) -> None:
        what = f"{message['variant']} {message['verdict']}, as case {message['again']}"
        self.again[what] += 1
        print(f"case {message['index']}: {what}: {message['says'][:150]}", flush=True)

    def failed(self, message: dict[str, Any]) -> None:
        self.failures.append(message)
        self.known += [message["known"]] if "known" in message else []
        layers = ", ".join(message.get("layers", ()))
        print(f"FAILURE in case {message['failure']}, {message['variant']} {message['verdict']}: {message['says'][:300]}")
        print(f"  {layers}; {message.get('script', '')}; alone: {message.get('alone', 'not run')}", flush=True)

    def table(self) -> Iterator[str]:
        """Lines that say it all."""
        yield "cases by setting: " + "; ".join(f"{name} {count}" for name, count in self.cases.items())
        verdicts = collections.defaultdict(list)
        for (variant, verdict), count in sorted(self.verdicts.items()):
            verdicts[variant].append(f"{verdict} {count}")
        yield from (f"{variant}: {', '.join(found)}" for variant, found in verdicts.items())
        themes = collections.defaultdict(list)
        for (theme, what), count in sorted(self.kinds.items()):
            themes[theme].append(f"{what} {count}")
        yield "kinds drawn, how often each:"
        yield from (f"  {theme} ({len(found)}): {', '.join(found)}" for theme, found in themes.items())
        yield from (f"again {count} times: {what}" for what, count in self.again.items())
        yield "why not, how often each:"
        yield from (f"  {count:4d} {what}" for what, count in self.said.most_common(25))


def messages(process: subprocess.Popen[str], each: float) -> Iterator[dict[str, Any] | None]:
    """What a child says; None where it said nothing for so many seconds. Ends with the child."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=each)
        except queue.Empty:
            yield None
            return
        if line is None:
            return
        if line.startswith("HUNT "):
            yield json.loads(line[5:])


def started(
    indices: list[int],
    seed: int,
    setting: dict[str, Any],
    out: Path,
    shrink: float,
    known: list[dict[str, Any]],
    errors: Any,
) -> subprocess.Popen[str]:
    """A child for these cases."""
    request = {"indices": indices, "seed": seed, "setting": setting, "out": str(out), "shrink": shrink, "known": known}
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **setting["environment"]}
    environment["FITCORE_CACHE"] = str(out / "plans.json")
    command = [sys.executable, "-m", "benchmarks.hunt.child", json.dumps(request)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True)


def alone(script: str) -> str:
    """Whether a printed script fails in a process of its own."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    try:
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=ALONE)
    except subprocess.TimeoutExpired:
        return "hangs"
    return {0: "does not fail", 1: "fails"}.get(done.returncode, f"ends with {done.returncode}")


def hunt(seed: int, indices: Iterator[int], end: float, out: Path, each: float, shrink: float, count: Count) -> None:
    """Runs cases until there are none or time is over."""
    waiting: list[int] = []
    while time.monotonic() < end:
        if not waiting:
            for index in indices:
                waiting.append(index)
                if (index + 1) % BLOCK == 0:
                    break
            if not waiting:
                return
        setting = setting_of(waiting[0])
        with tempfile.TemporaryFile("w+") as errors:
            process = started(waiting, seed, setting, out, shrink, count.known, errors)
            done = watch(process, waiting, setting, end, each + shrink, count)
            if not done and time.monotonic() < end:  # it died or hangs in the first of those that are waiting
                errors.seek(0)
                how = f"ended with {process.returncode}" if process.poll() is not None else f"hangs for {each + shrink:.0f} s"
                last = " | ".join(errors.read().strip().splitlines()[-3:])
                count.failed({"failure": waiting.pop(0), "variant": "process", "verdict": how, "says": last})
            stop(process)
        print(f"{sum(count.cases.values())} cases, {len(count.failures)} failures; {named(setting)}", flush=True)


def watch(
    process: subprocess.Popen[str], waiting: list[int], setting: dict[str, Any], end: float, each: float, count: Count
) -> bool:
    """Takes what a child says until it ends or time is over; whether it did all of its cases. Those done leave `waiting`."""
    for message in messages(process, each):
        if message is None:
            return False
        if "results" in message:
            count.take(named(setting), message)
        elif "again" in message:
            count.seen_again(message)
        elif "failure" in message:
            count.failed(message | {"alone": alone(message["script"])})
        elif "end" in message:
            waiting.remove(message["end"])
            if time.monotonic() > end:
                return True
    process.wait()
    return not waiting


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a child with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def reported(seed: int, indices: Iterator[int], end: float, out: Path, each: float, shrink: float) -> int:
    """Hunts, prints what was found, and returns the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}; scripts of failures are left in {out}", flush=True)
    count = Count()
    hunt(seed, indices, end, out, each, shrink, count)
    print("\n".join(count.table()))
    unlike = count.verdicts["Keras", "unlike itself"]
    found = len(count.failures)
    print(f"hunt: {sum(count.cases.values())} cases, {unlike} of them Keras doesn't repeat; {found} failures; seed {seed}")
    return int(found > 0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    given = flags.FLAGS
    seed = int(datetime.date.today().strftime("%Y%m%d")) if given.seed is None else given.seed
    several = range(given.first, given.first + given.cases) if given.cases else range(given.first, 10**9)
    indices = iter(several if given.only is None else [given.only])
    end = time.monotonic() + (float("inf") if given.cases or given.only is not None else 60 * given.minutes)
    out = Path(given.out or tempfile.mkdtemp(prefix="hunt-"))
    sys.exit(reported(seed, indices, end, out, given.timeout, given.shrink_seconds))


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    flags.DEFINE_float("minutes", 30.0, "Begin no other case after so many minutes.", lower_bound=0.0)
    flags.DEFINE_integer("cases", None, "Run so many cases, however long it takes.", lower_bound=1)
    flags.DEFINE_integer("seed", None, "Of what is drawn. Default: today's date, as 20261130.")
    flags.DEFINE_integer("first", 0, "Index of the first case.", lower_bound=0)
    flags.DEFINE_integer("only", None, "Run only the case of this index.", lower_bound=0)
    flags.DEFINE_string(
        "out", None, "Folder for scripts of failures. Default: a new one under the system's for temporary files."
    )
    flags.DEFINE_float("timeout", 240.0, "Seconds after which a case that says nothing hangs, beside those for shrinking.")
    flags.DEFINE_float("shrink_seconds", 90.0, "How long to look for a smaller case that fails.", lower_bound=0.0)
    app.run(main)
