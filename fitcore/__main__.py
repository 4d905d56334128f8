"""Run an unmodified script with Keras's methods routed through fitcore.

    python -m fitcore [--logdir DIR] script.py [args of the script]

As `python -m cProfile` does, it runs the script as `__main__` with its own `sys.argv`. At the end, however the script ended, a
short account goes to stderr: fits, steps and seconds, and what Keras had to run itself and why. TensorFlow and Keras are there
before the script begins: environment variables that it sets for them come too late.
"""

from __future__ import annotations

import argparse
import itertools
import os
import runpy
import sys
import weakref
from collections.abc import Sequence

import keras

from fitcore import keras_private
from fitcore.hooks import Hook, TensorBoard
from fitcore.patch import Hooks, Patch, patch_keras


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fitcore", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--logdir", metavar="DIR", help="write TensorBoard events of every fit there, a folder for each model")
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args(arguments)

    sys.argv = [options.script, *options.args]
    sys.path[0] = os.path.dirname(os.path.abspath(options.script))
    patch = patch_keras(hooks=tensorboard_in(options.logdir) if options.logdir else None)
    try:
        runpy.run_path(options.script, run_name="__main__")
    finally:
        sys.stdout.flush()
        print(account(patch), file=sys.stderr)


def tensorboard_in(directory: str) -> Hooks:
    """Hooks that write each model's fits into a folder of its own: DIR/1-sequential, DIR/2-functional, ..."""
    folders: weakref.WeakKeyDictionary[keras.Model, str] = weakref.WeakKeyDictionary()
    numbers = itertools.count(1)

    def hooks(model: keras.Model) -> list[Hook]:
        if model not in folders:
            folders[model] = os.path.join(directory, f"{next(numbers)}-{model.name}")
        folder = folders[model]
        if keras_private.overrides(model, "train_step"):
            return [TensorBoard(folder, record=(), running=())]  # nothing but its logs can be seen from outside
        own_logs = keras_private.overrides(model, "compute_metrics") or keras_private.overrides(model, "get_metrics_result")
        return [TensorBoard(folder, running=() if own_logs else ("loss",))]

    return hooks


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
