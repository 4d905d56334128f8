"""Run scripts of scripts/examples one after the other, and write down how each ended: run_examples.py RESULT.json NAME...

A script's end is what it printed and every variable that can be reached from its own names: of its models, of what they hold,
and of its optimizers; or the error that stopped it. Each script seeds itself, and writes its files into the current folder.

With DIE="call-0002 3" in the environment the process kills itself once the third checkpoint of the second fit is in place. It
does so in the thread that writes checkpoints, while the training goes on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parent / "scripts" / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
End = dict[str, Any]


def end_of(name: str) -> End:
    """Run a script; returns {"printed": its output, "variables": {path: (dtype, shape, bytes as hexadecimal digits)}}.

    Instead of "variables" there is "error" if an error stopped it.
    """
    keras.utils.clear_session()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            end = {"variables": _values(runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__"))}
        except Exception as error:
            traceback.print_exc()
            end = {"error": f"{type(error).__name__}: {error}"}
    return {"printed": printed.getvalue(), **end}


def _values(names: Mapping[str, Any]) -> dict[str, tuple[str, list[int], str]]:
    known: set[int] = set()
    found = {}
    for path, variable in _reachable(names, ""):
        if id(variable) not in known:
            known.add(id(variable))
            values = variable.numpy()
            found[path] = (str(values.dtype), list(values.shape), values.tobytes().hex())
    return found


def _reachable(held: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """(path, variable) of what is held by these names: one variable may come more than once."""
    for name, value in held.items():
        here = f"{path}{name}"
        if isinstance(value, (tf.Variable, keras.Variable)):
            yield here, value
        elif isinstance(value, (keras.layers.Layer, keras.metrics.Metric, keras.optimizers.Optimizer)):
            for i, variable in enumerate(value.variables):
                yield f"{here}/{i} {getattr(variable, 'path', variable.name)}", variable
            if isinstance(value, keras.Model):
                metrics = {f"metric {i}": metric for i, metric in enumerate(value.metrics)}
                held_by_model = {each: of for each, of in vars(value).items() if not each.startswith("_")}
                yield from _reachable({"optimizer": getattr(value, "optimizer", None), **metrics, **held_by_model}, f"{here}.")


def _die_after(folder: str, count: int) -> None:
    """Have the process killed once so many checkpoints were moved into place in a folder of this name."""
    rename, left = pathlib.Path.rename, [count]

    def counted(self: pathlib.Path, target: Any) -> pathlib.Path:
        moved = rename(self, target)
        left[0] -= pathlib.Path(target).parent.name == folder
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    pathlib.Path.rename = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    if "DIE" in os.environ:
        _die_after(os.environ["DIE"].split()[0], int(os.environ["DIE"].split()[1]))
    result, *chosen = sys.argv[1:]
    pathlib.Path(result).write_text(json.dumps({name: end_of(name) for name in chosen}))
