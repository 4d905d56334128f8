"""Run an unmodified script with Keras's methods routed through fitcore.

    python -m fitcore [--logdir DIR [--noise[=SPEC]]] script.py [args of the script]

As `python -m cProfile` does, it runs the script as `__main__` with its own `sys.argv`. At the end, however the script ended, a
short account goes to stderr: fits, steps and seconds, and what Keras had to run itself and why. TensorFlow and Keras are there
before the script begins: environment variables that it sets for them come too late. TensorFlow's chatter is left out of stderr;
fitcore_terminal.py says which lines, and how to see them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import runpy
import sys
import weakref
from collections.abc import Sequence

import keras

from fitcore import keras_private
from fitcore.command_line.registry import make
from fitcore.hooks import Hook, TensorBoard
from fitcore.noise import GradientNoise
from fitcore.patch import Hooks, Noise, Patch, patch_keras


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fitcore", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--logdir", metavar="DIR", help="write TensorBoard events of every fit there, a folder for each model")
    help_noise = "measure the gradient noise too, for --logdir; how: auto, split:splits=8, ... (--noise alone: auto)"
    parser.add_argument("--noise", metavar="SPEC", type=_noise, help=help_noise)
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args(_with_values(sys.argv[1:] if arguments is None else arguments))
    if options.noise and not options.logdir:
        parser.error("--noise needs --logdir, where its curves go")

    sys.argv = [options.script, *options.args]
    sys.path[0] = os.path.dirname(os.path.abspath(options.script))
    hooks, noise = observers_in(options.logdir, options.noise) if options.logdir else (None, None)
    patch = patch_keras(hooks, noise)
    try:
        runpy.run_path(options.script, run_name="__main__")
    finally:
        sys.stdout.flush()
        print(account(patch), file=sys.stderr)


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
        elif not argument.startswith("-") and (i == 0 or given[i - 1] != "--logdir"):
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
        if keras_private.overrides(model, "train_step"):
            return [TensorBoard(folder, record=(), running=())]  # nothing but its logs can be seen from outside
        own_logs = keras_private.overrides(model, "compute_metrics") or keras_private.overrides(model, "get_metrics_result")
        return [TensorBoard(folder, running=() if own_logs else ("loss",))]

    def noise(model: keras.Model) -> GradientNoise | None:
        if keras_private.overrides(model, "train_step") or model.run_eagerly:
            return None  # its step can't be seen into
        return dataclasses.replace(measured or GradientNoise(), directory=folder_of(model))

    return hooks, None if measured is None else noise


def account(patch: Patch) -> str:
    """What fitcore ran and what Keras ran itself, in lines."""
    ran = [f"{patch.calls['fit']} fits of {patch.steps} steps in {patch.seconds:.2f} s"]
    ran += [f"{number} calls of {method}" for method, number in sorted(patch.calls.items()) if method != "fit"]
    lines = [f"fitcore ran {', '.join(ran)}"]
    for (method, reason), number in sorted(patch.fallbacks.items()):
        lines.append(f"Keras ran {number} calls of {method}: {reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
