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
    checkpoints/NAME/ of the fit so called, with --checkpoint_every: the same command with the same --logdir goes on from there
and whatever the experiment writes there, such as TensorBoard's events.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags as absl_flags

from fitcore.checkpoint import Checkpoint, CheckpointError, Folders, Preempted, leaving_when_preempted
from fitcore.checkpoint.config import RESUME
from fitcore.command_line import registry, spec_flags
from fitcore.command_line.curves import CurveWriter, file_of
from fitcore.command_line.digests import DigestingHistory
from fitcore.command_line.environment import command, experiment, note_start, write_json
from fitcore.hooks import Hook
from fitcore.noise import GradientNoise

_LOGDIR = absl_flags.DEFINE_string(
    "logdir",
    None,
    "Folder the run is written into; it must not hold another run yet. Default: runs/<experiment>/<date and time>.",
)
_SEED = absl_flags.DEFINE_integer(
    "seed", 0, "Seed of Python's, NumPy's and TensorFlow's random numbers.", lower_bound=0, upper_bound=2**32 - 1
)
_DETERMINISTIC = absl_flags.DEFINE_bool(
    "deterministic", True, "TensorFlow's op determinism: the same flags give the same bits on a GPU too, at some cost there."
)
_VERBOSE = absl_flags.DEFINE_enum(
    "verbose",
    "auto",
    ["auto", "0", "1", "2"],
    "As in fit: 0 silent, 1 a progress bar, 2 a line per epoch, auto a bar on a terminal and nothing in a pipe.",
)
_CHECKPOINT_EVERY = absl_flags.DEFINE_string(
    "checkpoint_every",
    None,
    'Save each fit that often: "500 steps", "2 epochs" or "600 seconds". After a kill the same command with the same --logdir '
    "goes on, and ends with the same bits. Default: never.",
)
_RESUME = absl_flags.DEFINE_enum(
    "resume",
    "auto",
    RESUME,
    "With --checkpoint_every, whether to go on from what --logdir holds: if there is something, must, never; or, by force, "
    "also where flags or versions differ.",
)


def _is_interval(every: str | None) -> bool:
    try:
        return every is None or bool(Checkpoint("", every))
    except ValueError as error:
        raise absl_flags.ValidationError(str(error)) from error


absl_flags.register_validator("checkpoint_every", _is_interval)

_COMMON = (_LOGDIR, _SEED, _DETERMINISTIC, _VERBOSE, _CHECKPOINT_EVERY, _RESUME)
_NOT_IN_FLAGFILE = ("logdir", "flagfile", "resume")  # a relaunch gets a directory of its own

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it: 128 + SIGINT


@dataclass
class RunDirectory:
    """What an experiment's `main` is given.

    Attributes:
      path: the run's folder; it exists.
      seed: --seed. The global seed is set to it; set it again (`keras.utils.set_random_seed`) before each model that is
        to start alike.
      verbose: --verbose, for `fit` and `evaluate`; "auto" is decided: 1 on a terminal, else 0. (Keras's own shows a bar in a
        pipe too.)
      specs: by flag, what was asked of `run(flags=...)`: --optimizer and --noise a spec or None, --schedule and --stop a list
        of specs or None.
    """

    path: Path
    seed: int = 0
    verbose: int = 0
    specs: Mapping[str, Any] = field(default_factory=dict)
    _folders: Folders | None = None
    _histories: dict[str, DigestingHistory] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _saved: set[str] = field(default_factory=set)

    def optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer as --optimizer says, one for each model."""
        spec = self._spec("optimizer")
        if spec is None:
            raise ValueError("`flags` of launch.run must give --optimizer a default spec, such as 'adam'. Received: None")
        return registry.make("optimizer", spec)

    def schedule(self) -> dict[str, Any]:
        """fit's `schedule`: what --schedule says, by what is scheduled; empty without the flag. (A plateau is in `hooks`.)"""
        return {name: made for name, made in self._schedules().items() if not isinstance(made, Hook)}

    def hooks(self) -> list[Hook]:
        """New hooks for one fit: those of --stop and those of --schedule. Kept for several fits, they go on counting."""
        stops = self._spec("stop") or () if "stop" in self.specs else ()
        scheduling = self._schedules().values() if "schedule" in self.specs else ()
        return [*(made for made in scheduling if isinstance(made, Hook)), *(registry.make("stop", spec) for spec in stops)]

    def noise(self) -> GradientNoise | bool:
        """fit's `noise`: what --noise says; False without the flag."""
        spec = self._spec("noise")
        return False if spec is None else registry.make("noise", spec)

    def unused(self) -> list[str]:
        """Names of the flags that were given and never asked for by one of the methods above."""
        unused = [name for name, spec in self.specs.items() if spec and name not in self._used]
        return [*unused, *(["checkpoint_every"] if self._folders is not None and not self._saved else [])]

    def _schedules(self) -> dict[str, Any]:
        return spec_flags.schedules_of(self._spec("schedule") or ())

    def _spec(self, name: str) -> Any:
        if name not in self.specs:
            raise ValueError(f"`flags` of launch.run must name {name!r} for the experiment to use it.")
        self._used.add(name)
        return self.specs[name]

    def history(self, name: str) -> DigestingHistory:
        """A fresh History for one fit, to be put into its `callbacks`: the fit fills it, and history.json gets it.

        It keeps a digest of every variable per epoch, and writes curves/NAME.jsonl while the fit runs: its epochs, and what
        `fitcore.fit` records per step. Works with `fitcore.fit` and `model.fit` alike.

        Raises:
          ValueError: if `name` was given before.
        """
        if file_of(self.path, name) in (file_of(self.path, other) for other in self._histories):
            raise ValueError(f"`name` must differ from fit to fit. Received: name={name!r}, which this run has already.")
        self._histories[name] = DigestingHistory(CurveWriter(self.path, name))
        return self._histories[name]

    def checkpoint(self, name: str) -> Checkpoint | None:
        """fit's `checkpoint` for one fit, in the folder checkpoints/NAME of the run; None without --checkpoint_every.

        Raises:
          ValueError: if `name` was given before.
        """
        if name in self._saved:
            raise ValueError(f"`name` must differ from fit to fit. Received: name={name!r}, which this run has already.")
        self._saved.add(name)
        return None if self._folders is None else self._folders.of(name)

    def write_histories(self) -> None:
        """Write history.json with what the fits have left so far, and what is still missing in their curves."""
        for history in self._histories.values():
            history.writer.complete(getattr(history, "first_step", 0), getattr(history, "steps", {}))
        found = {
            name: {
                "epoch": getattr(history, "epoch", []),
                "history": history.history,
                "first_step": getattr(history, "first_step", 0),
                "steps": getattr(history, "steps", {}),
                "digests": history.digests,
            }
            for name, history in self._histories.items()
        }
        try:
            write_json(self.path / "history.json", found)
        except OSError as error:  # all else the run has to say is still to come
            warnings.warn(f"{self.path / 'history.json'} can't be written: {error}", stacklevel=2)


def run(
    main: Callable[[RunDirectory], Mapping[str, Any] | None], flags: Mapping[str, str | Sequence[str] | None] = {}
) -> NoReturn:
    """Parse the flags, run `main` in a new run directory, and exit.

    The exit status is 0; 1 for a wrong flag, an unwritable directory, an error, or a result whose "passed" is false (for
    experiments that check something); 130 after Ctrl-C; with --checkpoint_every 75 after SIGTERM, and after Ctrl-C in a fit
    that is saved.

    Args:
      main: the experiment. What it returns is written to result.json.
      flags: which of the flags "optimizer", "schedule", "stop" and "noise" the experiment takes, and their defaults: specs,
        None for nothing. `main` must use them, by the methods of `RunDirectory`; a flag that it doesn't is reported.

    Raises:
      ValueError: `flags` names another, or a default is no spec.
    """
    spec_flags.define(flags)
    for name in (*(holder.name for holder in _COMMON), *flags):  # so that --help lists them with the experiment's own
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


def _launch(main: Callable[[RunDirectory], Mapping[str, Any] | None], asked: tuple[str, ...], arguments: list[str]) -> int:
    if len(arguments) > 1:
        sys.exit(f"Unknown argument {arguments[1]!r}: everything is set by flags, --name=value. --help lists them.")
    specs = {name: absl_flags.FLAGS[name].value for name in asked}
    try:
        spec_flags.schedules_of(specs.get("schedule") or ())
    except ValueError as error:
        sys.exit(f"--schedule: {error}")
    directory = _directory(_LOGDIR.value)
    verbose = int(sys.stdout.isatty()) if _VERBOSE.value == "auto" else int(_VERBOSE.value)
    folders = None if _CHECKPOINT_EVERY.value is None else _folders_in(directory / "checkpoints")
    run = RunDirectory(directory, _SEED.value, verbose, specs, folders)
    keras.utils.set_random_seed(run.seed)
    if _DETERMINISTIC.value:
        tf.config.experimental.enable_op_determinism()
    note_start(directory / "environment.json", seed=_SEED.value, deterministic=_DETERMINISTIC.value)
    again = f"{command()} --flagfile={shlex.quote(str(directory / 'flags.txt'))}"
    try:
        with contextlib.nullcontext() if folders is None else leaving_when_preempted():
            result = main(run)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was recorded so far is in {directory}", file=sys.stderr)
        return INTERRUPTED
    except Preempted:
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
    write_json(directory / "result.json", {} if result is None else result)
    print(f"Curves: tensorboard --logdir {shlex.quote(str(directory))}")
    print(f"The same run again: {again}")
    return 0 if result is None or result.get("passed", True) else 1


def _directory(named: str | None) -> Path:
    """The run's directory: a new one, or with --checkpoint_every that of a run with the same flags, to go on with.

    Exits with a line that names --logdir or --resume where it can't be had.
    """
    resume = _RESUME.value
    flagfile = None if named is None else Path(named, "flags.txt")
    if flagfile is None or not flagfile.exists():
        if resume == "must":
            sys.exit(f"--resume=must: there is no run to go on with. Received: --logdir={named}")
        return _new_directory(named)
    if _CHECKPOINT_EVERY.value is None or resume == "never":
        return _new_directory(named)  # which it refuses
    different = _different_flags(flagfile.read_text(), _flagfile())
    if different:
        what = f"--logdir={named}: this holds a run with other flags. {different}."
        if resume != "force":
            sys.exit(f"{what} It goes on only with the same; name another folder for another run.")
        print(f"{what} It goes on all the same, as --resume=force says.", file=sys.stderr)
    return flagfile.parent


def _different_flags(before: str, now: str) -> str:
    """In words, what differs between two flagfiles."""
    lines, own = ([line for line in text.splitlines() if line.startswith("-")] for text in (before, now))
    found = {"There": [line for line in lines if line not in own], "here": [line for line in own if line not in lines]}
    return ", ".join(f"{where}: {' '.join(each) or 'nothing'}" for where, each in found.items()) if lines != own else ""


def _folders_in(directory: Path) -> Folders:
    """The folders of the fits' checkpoints; exits where they can't be used."""
    try:
        return Folders(directory, _CHECKPOINT_EVERY.value, _RESUME.value, keep=2)
    except (OSError, CheckpointError) as error:
        sys.exit(f"--checkpoint_every={_CHECKPOINT_EVERY.value}: {error}")


def _new_directory(named: str | None) -> Path:
    """Create the run's directory and put its flags there; exits with a line that names --logdir where that can't be done."""
    start = Path("runs", experiment().rpartition(".")[2], time.strftime("%Y-%m-%d_%H-%M-%S"))
    directory = start if named is None else Path(named)
    try:
        if named is None:
            for count in itertools.count(2):
                try:
                    directory.mkdir(parents=True)
                    break
                except FileExistsError:  # another run of this second
                    directory = start.with_name(f"{start.name}_{count}")
        else:
            directory.mkdir(parents=True, exist_ok=True)
        with open(directory / "flags.txt", "x") as file:  # x: fails where there is one
            file.write(_flagfile())
    except FileExistsError:
        what = "holds a run already" if directory.is_dir() else "is a file"
        sys.exit(f"--logdir={directory}: this {what}, and nothing is overwritten. Name another folder.")
    except OSError as error:
        sys.exit(f"--logdir={directory}: a run can't be written there: {error.strerror}. Name another folder.")
    return directory


def _flagfile() -> str:
    """The experiment's own flags, launch's, and any other that was given, with their values.

    Not absl's `flags_into_string`: that has the flags of everything imported too, which another version may not know.
    """
    known = {flag.name: flag for flag in absl_flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
    given = {name: absl_flags.FLAGS[name] for name in absl_flags.FLAGS if absl_flags.FLAGS[name].present}
    chosen = {name: flag for name, flag in sorted((known | given).items()) if name not in _NOT_IN_FLAGFILE}
    lines = [flag.serialize() for flag in chosen.values() if flag.value is not None]
    return "\n".join([f"# {command()} --flagfile=<this file>", *lines, ""])
