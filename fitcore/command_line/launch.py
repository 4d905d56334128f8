"""Launches an experiment by absl flags, and gives each run a directory of its own.

    def main(run: launch.RunDirectory) -> dict | None:      # an experiment module
        keras.utils.set_random_seed(run.seed)
        history = fitcore.fit(
            model, x, y, verbose=run.verbose, callbacks=[run.history("mlp")], hooks=[fitcore.TensorBoard(run.path / "mlp")]
        )
        return {"weights_sha256": launch.weights_sha256(model)}

    if __name__ == "__main__":
        launch.run(main)

    python -m experiments.NAME --epochs=5                   # flags: the experiment's own and those below; --help lists them

An experiment that takes its optimizer, schedule, stop hooks or noise measurement from the command line says so, with defaults:

    launch.run(main, flags={"optimizer": "adam:1e-3", "schedule": None, "stop": None, "noise": None})

    python -m experiments.NAME --optimizer=adamw:1e-3,weight_decay=0.01 --schedule=warmup:500,cosine:10000
    python -m experiments.NAME --schedule=momentum=linear:1000:0.85,end=0.95 --stop=patience:5 --stop=non_finite --noise

and builds with `run.optimizer()`, `run.schedule()`, `run.hooks()`, `run.noise()`. registry.py says how specs are
written; --helpfull lists all that is registered, the experiment's own included, with parameters. Flags not asked for don't
exist.

A run's directory, runs/NAME/<date and time> unless --logdir says otherwise, holds
    flags.txt         every flag's value, a flagfile: python -m experiments.NAME --flagfile=<it> does the same run again
    environment.json  versions, devices, seed, determinism, command line, git commit; and when and how it was started each time
    history.json      by name of the fit: its History, its curves per step, and a digest of every variable per epoch; after a
                      stop, an error and Ctrl-C too
    curves/FIT.jsonl  the same curves, written while the fit trains: a run that is killed keeps them
    result.json       what `main` returned; only if it did. Measured times have a name with "seconds" in it, so that
                      python -m fitcore.verify DIRECTORY, which does the run again and compares, leaves them out
    lock, status.json whether the run is running, and how it ended: python -m fitcore.runs tells
    checkpoints/NAME/ of the fit so called, with --checkpoint_every: the same command with the same --logdir goes on from there
and whatever the experiment writes there, such as TensorBoard's events.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags as absl_flags

from fitcore.checkpoint import CheckpointError, Folders, Preempted, leaving_when_preempted
from fitcore.cluster import role
from fitcore.command_line import common_flags, run_state, spec_flags
from fitcore.command_line.dry_run import dry_run
from fitcore.command_line.environment import command, note_start, write_json
from fitcore.command_line.new_directory import directory_of, folders_in
from fitcore.command_line.profile import Profile, parse
from fitcore.command_line.records import numbers
from fitcore.command_line.run_directory import RunDirectory
from fitcore.command_line.strategy import make_strategy
from fitcore.command_line.sweep import sweep
from fitcore.hooks import hparams

__all__ = ["INTERRUPTED", "RunDirectory", "run", "weights_sha256"]

Main = Callable[[RunDirectory], Mapping[str, Any] | None]

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it: 128 + SIGINT


def run(main: Main, flags: Mapping[str, str | Sequence[str] | None] = {}) -> NoReturn:
    """Parse the flags, run `main` in a new run directory, and exit.

    The exit status is 0; 1 for a wrong flag, an unwritable directory, an error, or a result whose "passed" is false (for
    experiments that check something); 130 after Ctrl-C; with --checkpoint_every 75 after SIGTERM, and after Ctrl-C in a fit
    that is saved.

    Args:
      main: the experiment. What it returns is written to result.json.
      flags: which of the flags "optimizer", "schedule", "stop" and "noise" the experiment takes, and their defaults: specs,
        None for nothing; and of "numerics" and "strategy". `main` must use them, by the methods of `RunDirectory`; a flag that
        it doesn't is reported. And "precision", a dtype policy of Keras's, which is set before `main` is called.

    Raises:
      ValueError: `flags` names another, or a default is no spec.
    """
    spec_flags.define(flags)
    common = [holder.name for holder in common_flags.COMMON]
    for name in (*common, *flags):  # so that --help lists them with the experiment's own
        absl_flags.FLAGS.register_key_flag_for_module(sys.argv[0], absl_flags.FLAGS[name])
    app.run(functools.partial(_launch, main, tuple(flags)))
    raise AssertionError("app.run doesn't return")


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 over the bytes of all of the model's weights, in their order: equal for runs that ended in the same bits."""
    digest = hashlib.sha256()
    for weight in model.weights:
        value = np.asarray(weight)
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _launch(main: Main, asked: tuple[str, ...], arguments: list[str]) -> int:
    if len(arguments) > 1:
        sys.exit(f"Unknown argument {arguments[1]!r}: everything is set by flags, --name=value. --help lists them.")
    specs = {name: absl_flags.FLAGS[name].value for name in asked if name != "precision"}
    try:
        spec_flags.schedules_of(specs.get("schedule") or ())
    except ValueError as error:
        sys.exit(f"--schedule: {error}")
    if common_flags.SWEEP.value is not None:
        if common_flags.DRY_RUN.value:
            sys.exit("--dry_run is for one run. With --sweep, --print_commands says what would be done.")
        return sweep(common_flags.SWEEP.value)
    for holder in (common_flags.JOBS, common_flags.PRINT_COMMANDS):
        if holder.present:
            sys.exit(f"--{holder.name} goes with --sweep, which is not given.")
    unknown = [name for name in common_flags.HPARAMS.value or () if name not in absl_flags.FLAGS]
    if unknown:
        sys.exit(f"--hparams: there is no flag {unknown[0]!r}.")
    strategy = make_strategy(specs.get("strategy"))
    _set_up(absl_flags.FLAGS["precision"].value if "precision" in asked else None)
    shown = common_flags.VERBOSE.value if role.is_chief() else "0"
    progress = shown == "auto"
    verbose = 0 if progress else int(shown)
    if common_flags.DRY_RUN.value:
        with tempfile.TemporaryDirectory() as stand_in, dry_run(stand_in):
            folders = None if common_flags.CHECKPOINT_EVERY.value is None else folders_in(Path(stand_in, "checkpoints"))
            main(RunDirectory(Path(stand_in), common_flags.SEED.value, verbose, progress, specs, None, strategy, folders))
        print("--dry_run: the experiment came to its end without a fit.")
        return 0
    with contextlib.ExitStack() as stack:
        if role.is_chief():
            directory = directory_of(common_flags.LOGDIR.value)
        else:  # of a cluster: does all that the chief does, so that both take part in the same sums, and leaves nothing
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fitcore-worker-")))
        saved = directory if role.is_chief() or common_flags.LOGDIR.value is None else Path(common_flags.LOGDIR.value)
        folders = None if common_flags.CHECKPOINT_EVERY.value is None else folders_in(saved / "checkpoints")
        steps = common_flags.PROFILE.value
        profile = None if steps is None else Profile(directory, *parse(steps))
        run = RunDirectory(directory, common_flags.SEED.value, verbose, progress, specs, profile, strategy, folders)
        stack.enter_context(_recorded(directory))
        return _main_in(run, main, folders)


def _set_up(precision: str | None) -> None:
    """Devices, precision and random numbers, as the flags say; exits where they can't be had."""
    if precision is not None:
        keras.config.set_dtype_policy(precision)
    if common_flags.DEVICE.value == "gpu" and not tf.config.list_physical_devices("GPU"):
        sys.exit("--device=gpu: TensorFlow finds no GPU here. --device=auto takes what there is.")
    if common_flags.DEVICE.value == "cpu":
        tf.config.set_visible_devices([], "GPU")
    keras.utils.set_random_seed(common_flags.SEED.value)
    if common_flags.DETERMINISTIC.value:
        tf.config.experimental.enable_op_determinism()


def _main_in(run: RunDirectory, main: Main, folders: Folders | None) -> int:
    """Call `main` with the run, and write what it returns; returns the exit status."""
    directory = run.path
    note_start(directory / "environment.json", seed=run.seed, deterministic=common_flags.DETERMINISTIC.value)
    again = f"{command()} --flagfile={shlex.quote(str(directory / 'flags.txt'))}"
    try:
        with contextlib.nullcontext() if folders is None else leaving_when_preempted():
            result = main(run)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was recorded so far is in {directory}", file=sys.stderr)
        return INTERRUPTED
    except Preempted:
        if role.is_chief():
            print(f"The run goes on by {again} --logdir={shlex.quote(str(directory))}", file=sys.stderr)
        raise
    except CheckpointError as error:
        sys.exit(str(error))
    finally:
        run.write_histories()
        if folders is not None:
            folders.close()
    for name in run.unused():
        print(f"--{name} was given, but the experiment never asked for it: it had no effect.", file=sys.stderr)
    if run.profile is not None and not run.profile.done:
        print(f"--profile={common_flags.PROFILE.value}: no fit with a `run.history` got so far.", file=sys.stderr)
    if common_flags.HPARAMS.value:
        values = {name: absl_flags.FLAGS[name].value for name in common_flags.HPARAMS.value}
        hparams.write(directory, values, numbers(result or {}))
    write_json(directory / "result.json", {} if result is None else result)
    if role.is_chief():
        print(f"Curves: tensorboard --logdir {shlex.quote(str(directory))}")
        print(f"The same run again: {again}")
    return 0 if result is None or result.get("passed", True) else 1


@contextlib.contextmanager
def _recorded(directory: Path) -> Iterator[None]:
    """Within it others see that the run is running; after it, in status.json, how it ended."""
    start, error = time.monotonic(), None
    lock: int | None
    try:
        lock = run_state.hold(directory)
    except run_state.RunInUseError as in_use:
        sys.exit(f"--logdir={directory}: another process does this run just now: {in_use}")
    except OSError as failed:  # a file system without locks, say
        warnings.warn(f"{directory} can't be locked, so it won't be seen that the run is running: {failed}", stacklevel=2)
        lock = None
    status = directory / "status.json"
    status.unlink(missing_ok=True)  # of the process that left it
    try:
        yield
    except Preempted:
        raise
    except SystemExit as exit:
        error = str(exit.code) if exit.code else None
        raise
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        ended = {"ended": time.strftime(run_state.TIME), "seconds": round(time.monotonic() - start, 3), "error": error}
        try:
            write_json(status, ended)
        except OSError as failed:
            warnings.warn(f"{status} can't be written: {failed}", stacklevel=2)
        if lock is not None:
            run_state.release(lock)
