"""Run an unmodified script with Keras's methods routed through fitcore.

    python -m fitcore [--logdir DIR [--noise[=SPEC]]] [--checkpoint_dir DIR] [--check] script.py [args of the script]

As `python -m cProfile` does, it runs the script as `__main__` with its own `sys.argv`. At the end, however the script ended, a
short account goes to stderr: fits, steps and seconds, and what Keras had to run itself and why. TensorFlow and Keras are there
before the script begins: environment variables that it sets for them come too late. TensorFlow's chatter is left out of stderr;
fitcore_terminal.py says which lines, and how to see them.

With --check each fit is first checked (`fitcore.check`: some steps by Keras and by fitcore, everything put back), then trained
as ever. If one differed, the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import itertools
import os
import runpy
import sys
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import keras

from fitcore import keras_private
from fitcore.checking import check
from fitcore.checkpoint import Calls, CheckpointError, Folders, leaving_when_preempted
from fitcore.checkpoint.config import RESUME
from fitcore.command_line.registry import make
from fitcore.hooks import Hook, TensorBoard
from fitcore.noise import GradientNoise
from fitcore.patch import Hooks, Noise, Patch, patch_keras

_TAKE_A_VALUE = ("--logdir", "--checkpoint_dir", "--checkpoint_every", "--resume")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fitcore", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--logdir", metavar="DIR", help="write TensorBoard events of every fit there, a folder for each model")
    help_noise = "measure the gradient noise too, for --logdir; how: auto, split:splits=8, ... (--noise alone: auto)"
    parser.add_argument("--noise", metavar="SPEC", type=_noise, help=help_noise)
    help_checkpoint = (
        "save every fit there as it runs; the same command, started again after a kill, goes on with the same bits"
    )
    parser.add_argument("--checkpoint_dir", metavar="DIR", help=help_checkpoint)
    help_every = 'how often, as "500 steps", "2 epochs" or "60 seconds"; each fit\'s end is saved anyway (default: %(default)s)'
    parser.add_argument("--checkpoint_every", metavar="N UNIT", default="60 seconds", help=help_every)
    help_resume = (
        "whether to go on from what is there (auto), must or never, or all the same where versions or arguments differ"
    )
    parser.add_argument("--resume", choices=RESUME, default="auto", help=f"{help_resume} (force)")
    help_check = "before each fit compare a few dozen steps of it with Keras's, bit by bit; exit status 1 if one differs"
    parser.add_argument("--check", action="store_true", help=help_check)
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args(_with_values(sys.argv[1:] if arguments is None else arguments))
    if options.noise and not options.logdir:
        parser.error("--noise needs --logdir, where its curves go")

    try:
        calls = (
            Calls(Folders(options.checkpoint_dir, options.checkpoint_every, options.resume)) if options.checkpoint_dir else None
        )
    except (ValueError, OSError, CheckpointError) as error:
        parser.error(f"--checkpoint_dir: {error}")

    sys.argv = [options.script, *options.args]
    sys.path[0] = os.path.dirname(os.path.abspath(options.script))
    hooks, noise = observers_in(options.logdir, options.noise) if options.logdir else (None, None)
    checks = Checks() if options.check else None
    patch = patch_keras(hooks, noise, None if calls is None else calls.call, checks)
    try:
        with contextlib.nullcontext() if calls is None else leaving_when_preempted():
            runpy.run_path(options.script, run_name="__main__")
    finally:
        sys.stdout.flush()
        print(account(patch, calls), file=sys.stderr)
    if checks is not None and checks.differed:
        sys.exit(f"{checks.differed} of {checks.fits} fits differ from Keras's: see the lines that begin with check:")


class Checks:
    """Checks each fit before it is made, and says what it found, a line each.

    Attributes:
      fits: how many fits there were.
      differed: how many of them differ from Keras's.
    """

    def __init__(self) -> None:
        self.fits = self.differed = 0

    def __call__(self, model: Any, arguments: dict[str, Any], hooks: Sequence[Hook], noise: GradientNoise | None) -> None:
        self.fits += 1
        taken: list[Any] = []
        given, x = dict(arguments), arguments.get("x")
        if inspect.isgenerator(x):  # what is taken out of it is put before the rest
            given["x"] = (taken.append(batch) or batch for batch in x)  # type: ignore[func-returns-value]
            arguments["x"] = (batch for batch in itertools.chain(taken, x))
        try:
            result: Any = check(model, **given, hooks=hooks, noise=noise or False)
            self.differed += not result.identical and result.keras_repeats
        except Exception as error:  # the fit itself will say the same, or it is the check's own
            result = f"could not be made: {type(error).__name__}: {error}"
        print(f"check: fit {self.fits}, {model.name}: {result}", file=sys.stderr)


def _noise(spec: str) -> GradientNoise:
    try:
        return make("noise", spec)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _with_values(arguments: Sequence[str]) -> list[str]:
    """The arguments with --noise=auto for a --noise by itself, which argparse would have eat the script's name."""
    given = list(arguments)
    for i, argument in enumerate(given):
        if argument == "--noise":
            given[i] = "--noise=auto"
        elif not argument.startswith("-") and (i == 0 or given[i - 1] not in _TAKE_A_VALUE):
            break  # the script; what follows is its own
    return given


def observers_in(directory: str, measured: GradientNoise | None) -> tuple[Hooks, Noise | None]:
    """What writes each model's fits, and their noise, into a folder of its own: DIR/1-sequential, DIR/2-functional, ..."""
    folders: weakref.WeakKeyDictionary[keras.Model, str] = weakref.WeakKeyDictionary()
    numbers = itertools.count(1)

    def folder_of(model: keras.Model) -> str:
        if model not in folders:
            folders[model] = os.path.join(directory, f"{next(numbers)}-{model.name}")
        return folders[model]

    def hooks(model: keras.Model) -> list[Hook]:
        folder = folder_of(model)
        graph = not os.path.isdir(folder)  # of a model's first fit; the others' are the same
        if keras_private.overrides(model, "train_step"):
            return [TensorBoard(folder, record=(), running=(), graph=graph)]  # nothing but its logs can be seen from outside
        own_logs = keras_private.overrides(model, "compute_metrics") or keras_private.overrides(model, "get_metrics_result")
        return [TensorBoard(folder, running=() if own_logs else ("loss",), graph=graph)]

    told: set[tuple[type, str]] = set()

    def noise(model: keras.Model) -> GradientNoise | None:
        hidden = _why_no_noise(model)
        if hidden is not None:
            kind = type(model)
            if (kind, hidden) not in told:
                told.add((kind, hidden))
                unmeasured = f"--noise: the gradient noise of `{kind.__name__}` is not measured, since {hidden}"
                warnings.warn(f"{unmeasured}. The model trains as it does without --noise.", stacklevel=4)
            return None
        return dataclasses.replace(measured or GradientNoise(), directory=folder_of(model))

    return hooks, None if measured is None else noise


def _why_no_noise(model: keras.Model) -> str | None:
    """Why the gradients within a model's step can't be measured; None if they can."""
    if keras_private.overrides(model, "train_step"):
        return "it has a train_step of its own, whose loss and gradients can't be seen"
    if model.run_eagerly:
        return "it runs eagerly"
    return None


def account(patch: Patch, calls: Calls | None = None) -> str:
    """What fitcore ran, what of it in an earlier process, and what Keras ran itself, in lines."""
    ran = [f"{patch.calls['fit']} fits of {patch.steps} steps in {patch.seconds:.2f} s"]
    ran += [f"{number} calls of {method}" for method, number in sorted(patch.calls.items()) if method != "fit"]
    lines = [f"fitcore ran {', '.join(ran)}"]
    if calls is not None and calls.answered:
        lines.append(f"{calls.answered} of the fits were answered from their recorded ends")
    for (method, reason), number in sorted(patch.fallbacks.items()):
        lines.append(f"Keras ran {number} calls of {method}: {reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
