"""Draws curves of runs, also of those that are running or were killed: PNG or SVG.

    python -m fitcore.plot runs/digits/2026-11-25_10-00-00            # its loss, with val_loss where there is one
    python -m fitcore.plot runs/sweep --y=val_accuracy --x=seconds    # all runs in a folder
    python -m fitcore.plot RUN OTHER --y=step/loss,noise/scale --smooth=0.9 --out=noise.svg

Runs that differ only in --seed are one line, their mean, in a band of a standard deviation to either side. `val_NAME` is drawn
dashed beside NAME, and the batch size dotted beside the noise scale. Curves per epoch are "loss" and the like; those per step
have a slash in their name. Values that aren't finite are left out. Needs matplotlib: the extra `plot`.

It loads neither TensorFlow nor Keras: see `fitcore/__init__.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitcore.command_line import records
from fitcore.command_line.series import AXES, CurveError, FitCurves, fits_of, lines

NOISE_SCALE, BATCH_SIZE = "noise/scale", "noise/batch_size"


def draw(fits: Sequence[FitCurves], axis: str, names: Sequence[str], smooth: float = 0.0) -> Any:
    """A matplotlib figure of these curves, a panel each; `val_NAME` goes into NAME's.

    Args:
      fits: whose.
      axis: one of AXES, horizontally.
      names: of the curves.
      smooth: weight of a value in the running mean, in that of the one after it; 0 leaves them as they are.

    Raises:
      CurveError: there is no such curve, or not on this axis.
    """
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(name.removeprefix("val_"), []).append(name)
    colors: dict[str, str] = {}  # the same in all panels
    figure = Figure(figsize=(6.4, 3.6 * len(panels)), layout="constrained")
    for axes, (title, drawn) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items()):
        for name in drawn:
            style = "--" if name.startswith("val_") else "-"
            for line in lines(fits, axis, name, smooth):
                color = colors.setdefault(line.label, f"C{len(colors) % 10}")
                label = line.label + (f" ({line.seeds} seeds)" if line.seeds > 1 else "")
                if len(drawn) > 1:
                    label = f"{name} {label}".rstrip()
                axes.plot(line.x, line.mean, style, color=color, label=label or name)
                low, high = line.mean - line.deviation, line.mean + line.deviation
                axes.fill_between(line.x, low, high, color=color, alpha=0.2, linewidth=0)
        if title == NOISE_SCALE:
            for line in lines([fit for fit in fits if BATCH_SIZE in fit.values], axis, BATCH_SIZE):
                axes.plot(line.x, line.mean, "k:", label="batch size")
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel=axis, ylabel="examples" if title == NOISE_SCALE else title)
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1]))  # one of each label
        axes.legend(handles.values(), handles.keys(), fontsize="small")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fitcore.plot", description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's directory, or a folder with runs in it")
    parser.add_argument("--x", choices=AXES, default="step", help="default: %(default)s")
    parser.add_argument("--y", metavar="NAME,...", help="curves, separated by commas; default: loss and val_loss")
    parser.add_argument("--smooth", metavar="FACTOR", type=float, default=0.0, help="as in TensorBoard: 0 (default) to below 1")
    parser.add_argument("--out", metavar="FILE", default="curves.png", help=".png or .svg; default: %(default)s")
    options = parser.parse_args(arguments)
    if not 0 <= options.smooth < 1:
        parser.error(f"--smooth must be at least 0 and below 1. Received: {options.smooth:g}")
    if Path(options.out).suffix not in (".png", ".svg"):
        parser.error(f"--out must end in .png or .svg. Received: {options.out}")
    found = []
    for place in options.runs:
        if not Path(place).is_dir():
            parser.error(f"{place} is no directory")
        there = list(records.find(Path(place)))
        if not there:
            parser.error(f"{place} is no run's directory, and there is none in it")
        found += [fit for run in there for fit in fits_of(run)]
    names = options.y.split(",") if options.y else ["loss", *["val_loss"] * any("val_loss" in fit.values for fit in found)]
    try:
        draw(found, options.x, names, options.smooth).savefig(options.out, dpi=150)
    except CurveError as error:
        parser.error(str(error))
    except ImportError:
        parser.error("it needs matplotlib: pip install 'fitcore[plot]'")
    except OSError as error:
        parser.error(f"--out={options.out}: {error.strerror}")
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
