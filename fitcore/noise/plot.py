"""A picture of the noise scale over training. Needs matplotlib, which comes with the `experiments` extra."""

from __future__ import annotations

from typing import Any

import numpy as np

from fitcore.noise.results import NoiseCurves


def plot(noise: NoiseCurves, axes: Any = None, layers: bool = False) -> Any:
    """Draw the noise scale in its interval, beside the batch size, against the step, on logarithmic axes.

    Where the scale is undetermined there is no line; the shade then begins at what it is known to exceed, and has no end.

    Args:
      noise: `history.noise`.
      axes: matplotlib axes to draw on; None: new ones.
      layers: draw a thin line for each layer too.

    Returns:
      The axes.
    """
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.figure(layout="constrained").subplots()
    steps, low, high = noise.step + 1, noise.interval[:, 0], noise.interval[:, 1]
    known = np.isfinite(low) & (low > 0)
    top = 10 * np.max([noise.batch_size.max(initial=1), *high[np.isfinite(high)], *low[known]])
    axes.fill_between(steps, np.where(known, low, 1e-9), np.where(np.isfinite(high), high, top), alpha=0.2, linewidth=0)
    axes.plot(steps, noise.scale, label="noise scale")
    axes.plot(steps, noise.batch_size, "k:", label="batch size")
    for name, curve in noise.layers.items() if layers else ():
        axes.plot(steps, curve.scale, linewidth=0.7, label=name)
    bottom = min(low[known].min(initial=top), noise.batch_size.min(initial=top)) / 3
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="examples", ylim=(bottom, top))
    axes.legend()
    return axes
