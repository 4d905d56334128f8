"""Does an experiment once for each setting of a sweep: each run a process of its own, in a directory of its own."""

from __future__ import annotations

import contextlib
import difflib
import math
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from fitcore.command_line import common_flags, records, run_state
from fitcore.command_line.environment import experiment
from fitcore.command_line.new_directory import flagfile
from fitcore.command_line.sweep_settings import Setting, SweepError, folder_of, parse
from fitcore.noise.statistics import student_t

OUTPUT = "output.txt"  # what a run printed, in its directory
POLL = 0.1  # seconds between two looks at the runs under way
# Seconds for runs to leave by themselves: a terminal's Ctrl-C reaches them too, and a second signal would end them at once.
GRACE = 3.0


def sweep(text: str) -> int:
    """Do what is missing of a sweep, in --logdir or a new directory; returns the exit status, 0 if all runs have finished well.

    Args:
      text: --sweep.
    """
    settings = _checked(text)
    start = Path("runs", experiment().rpartition(".")[2], time.strftime("sweep-%Y-%m-%d_%H-%M-%S"))
    directory = Path(common_flags.LOGDIR.value or start)
    runs = {directory / folder_of(setting): setting for setting in settings}
    _check_flags(runs)
    if common_flags.PRINT_COMMANDS.value:
        for path, setting in runs.items():
            if _state(path) not in (run_state.FINISHED, run_state.RUNNING):
                anew = "" if _goes_on(path) else f"rm -r {shlex.quote(str(path))} && "
                print(anew + shlex.join(_command(path, setting)))
        return 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = run_state.hold(directory)
    except OSError as error:
        sys.exit(f"--logdir={directory}: a sweep can't be written there: {error}")
    try:
        _run_missing(runs, common_flags.JOBS.value)
    finally:
        run_state.release(lock)
    found = [records.read(path) for path in runs]
    print(f"\n{table(found, list(runs.values()))}")
    bad = [record for record in found if record.state != run_state.FINISHED or not record.result.get("passed", True)]
    for record in bad:
        state = "did not pass" if record.state == run_state.FINISHED else _state(record.path) or "did not begin"
        why = record.status.get("error") or state
        print(f"{record.path}: {why}; what it printed is in {record.path / OUTPUT}", file=sys.stderr)
    print(f"{len(found) - len(bad)} of {len(found)} runs are done. TensorBoard's HParams tab: tensorboard --logdir {directory}")
    return 1 if bad else 0


def _checked(text: str) -> list[Setting]:
    """The settings; exits with a line that names what is wrong."""
    try:
        settings = parse(text)
    except SweepError as error:
        sys.exit(f"--sweep: {error}")
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])} - set(common_flags.NOT_SWEPT)
    for name in settings[0]:
        if name not in own:
            near = difflib.get_close_matches(name, own, 1)
            sys.exit(f"--sweep: there is no flag {name!r} to sweep.{f' Did you mean {near[0]!r}?' if near else ''}")
        if flags.FLAGS[name].present:
            sys.exit(f"--sweep: {name} is swept, and --{name} given besides.")
        for value in dict.fromkeys(setting[name] for setting in settings):
            try:
                flags.FLAGS[name].parser.parse(value)
            except (ValueError, TypeError) as error:
                sys.exit(f"--sweep: {name}={value}: {error}")
    return settings


def _check_flags(runs: Mapping[Path, Setting]) -> None:
    """Refuse to go on with a sweep whose runs had other flags besides the swept ones; exits then."""
    now = records.flags_in(flagfile())
    for path, setting in runs.items():
        if records.is_run(path):
            there = records.read(path).flags
            here = now | setting
            different = [name for name in {**there, **here} if there.get(name) != here.get(name) and name not in setting]
            different = [name for name in different if name != common_flags.HPARAMS.name]
            if different:
                values = f"There: --{different[0]}={there.get(different[0])}, here: {here.get(different[0])}"
                sys.exit(f"--logdir={path.parent}: this holds runs with other flags. {values}. Name another folder.")


def _command(path: Path, setting: Setting) -> list[str]:
    """What does one run."""
    program = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # -m MODULE, or the script
    given = [flags.FLAGS[name] for name in sorted(flags.FLAGS) if flags.FLAGS[name].present]
    passed = [
        line for flag in given if flag.name not in common_flags.OF_THE_SWEEP for line in flag.serialize().splitlines() if line
    ]
    swept = [f"--{name}={value}" for name, value in setting.items()]
    own = [f"--{common_flags.HPARAMS.name}={','.join(setting)}", f"--logdir={path}"]
    return [sys.executable, *program, *passed, *swept, *own]


def _state(path: Path) -> str | None:
    """The state of a run; None if it was never begun."""
    return run_state.state_of(path) if records.is_run(path) else None


def _goes_on(path: Path) -> bool:
    """Whether a run can be begun in this folder, or gone on with."""
    return common_flags.CHECKPOINT_EVERY.value is not None or not path.exists()


def _run_missing(runs: Mapping[Path, Setting], jobs: int) -> None:
    """Do the runs that have not finished, `jobs` at a time. One that another process does just now is waited for."""
    waiting = list(runs)
    under_way: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}
    with _heard() as signals:
        while (waiting or under_way) and not signals:
            for path, (process, begun) in list(under_way.items()):
                if process.poll() is not None:
                    del under_way[path]
                    state = _state(path) or f"ended with status {process.returncode}"
                    print(f"{path.name}: {state} after {time.monotonic() - begun:.1f} s", flush=True)
            for path in list(waiting):
                if len(under_way) == jobs:
                    break
                there = _state(path)
                if there == run_state.FINISHED:
                    print(f"{path.name}: {there} already", flush=True)
                    waiting.remove(path)
                elif there != run_state.RUNNING:
                    waiting.remove(path)
                    under_way[path] = _start(path, runs[path]), time.monotonic()
            time.sleep(POLL)
        if signals:
            print(f"\nEnding {len(under_way)} runs. The same command with the same --logdir goes on.", file=sys.stderr)
            _end([process for process, _ in under_way.values()], signals)
            sys.exit(128 + signals[0])


def _start(path: Path, setting: Setting) -> subprocess.Popen[bytes]:
    """Begin a run; what is left of an earlier attempt goes away, unless the run can go on from it."""
    if not _goes_on(path):
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    with open(path / OUTPUT, "ab") as output:
        return subprocess.Popen(_command(path, setting), stdin=subprocess.DEVNULL, stdout=output, stderr=output)


@contextlib.contextmanager
def _heard() -> Iterator[list[int]]:
    """Within it Ctrl-C and SIGTERM are noted in the list and do nothing else, so none comes while a process is started."""
    heard: list[int] = []
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in numbers}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(processes: Sequence[subprocess.Popen[bytes]], signals: Sequence[int]) -> None:
    """End processes: let those leave that heard the signal too, then ask them, then kill; a second signal kills at once."""

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in processes) and time.monotonic() < end and len(signals) == 1:
            time.sleep(POLL)

    wait(GRACE)
    for process in processes:
        process.terminate()
    wait(10 * GRACE)  # one with checkpoints saves itself
    for process in processes:
        process.kill()
        process.wait()


def table(found: Sequence[records.Record], settings: Sequence[Setting]) -> str:
    """By all swept flags but the seed, the mean of each number in the results, with its 95 % interval over the seeds.

    Args:
      found: the runs.
      settings: of each, the swept flags.
    """
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    names = [name for name in settings[0] if name != "seed"]
    for record, setting in zip(found, settings):
        if record.state == run_state.FINISHED:
            groups.setdefault(tuple(setting[name] for name in names), []).append(records.numbers(record.result))
    metrics = list(dict.fromkeys(name for results in groups.values() for result in results for name in result))
    rows = [[*names, "runs", *metrics]]
    for values, results in groups.items():
        cells = [_mean([result[metric] for result in results if metric in result]) for metric in metrics]
        rows.append([*values, str(len(results)), *cells])
    return "\n".join(records.aligned(rows))


def _mean(values: Sequence[float]) -> str:
    """Mean and half of the 95 % interval (Student's t) of a few numbers."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    half: Any = student_t(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.4g} ± {float(half):.2g}"
