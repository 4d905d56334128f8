"""TensorBoard events of the gradient noise, and a dashboard that shows them with their intervals."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from tensorboard.plugins.custom_scalar import layout_pb2, summary

from fitcore.hooks.event_file import EventFile, event_of, writable_folder
from fitcore.hooks.protocol import RETURNS, Answer, Hook, View
from fitcore.noise.config import GradientNoise
from fitcore.noise.probe import Probe
from fitcore.noise.results import NoiseCurve, curves


class NoiseEvents(Hook):
    """Writes, in `directory`/train, a point per measured step; the horizontal axis is that of `fitcore.TensorBoard`.

        noise/scale, noise/scale_low, noise/scale_high   the noise scale in examples and its interval; no point where the
                                                         gradient can't be told from zero
        noise/trace, noise/grad_norm_sq                  the running averages it is the ratio of
        noise/batch_size                                 to compare it with
        noise/scale/LAYER, noise/trace/LAYER, noise/grad_norm_sq/LAYER

    The "Custom Scalars" tab has charts of them, laid out.

    Args:
      directory: created if missing.
      config, probe: what is measured, and by whom.
      population: rows that the batches are drawn from; infinite if unknown.

    Raises:
      OSError: if `directory` can't be created or written in.
    """

    when = RETURNS

    def __init__(
        self, directory: str | os.PathLike[str], config: GradientNoise, probe: Probe, population: float = math.inf
    ) -> None:
        self._folder = os.path.join(writable_folder(directory), "train")
        self._config, self._probe, self._population = config, probe, population
        self._file: Any = None
        self._rows: list[np.ndarray] = []  # what the running averages still remember, and then what is new

    def after_steps(self, view: View) -> Answer:
        self._write(view)
        return None

    def after_epoch(self, view: View) -> Answer:
        self._write(view)
        return None

    def end(self, view: View) -> None:
        self._write(view)
        if self._file is not None:
            self._file.close()
        self._file, self._rows = None, []

    def state(self) -> dict[str, Any]:
        return {**super().state(), "rows": self._rows}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._rows = state["rows"]

    def _write(self, view: View) -> None:
        new = view.records.get("noise", np.empty(0))
        if not len(new):
            return
        remembered = np.concatenate([*self._rows, new])
        first = view.first_step + len(new) - len(remembered)
        noise = curves(remembered, first, self._probe, self._config, self._population)
        if self._file is None:
            self._file = EventFile(self._folder, [event_of(summary.pb(layout(list(noise.layers))))])
        fresh = noise.step >= view.first_step
        steps = noise.step[fresh] + 1
        self._points("noise/batch_size", steps, noise.batch_size[fresh])
        self._curve("", steps, noise, fresh)
        for name, curve in noise.layers.items():
            self._curve(f"/{name}", steps, curve, fresh)
        self._file.flush()
        kept = self._config.memory
        self._rows = [remembered if kept is None else remembered[-kept:]]

    def _curve(self, suffix: str, steps: np.ndarray, curve: NoiseCurve, fresh: np.ndarray) -> None:
        ratio = curve.ratio
        self._points(f"noise/scale{suffix}", steps, ratio.value[fresh])
        if not suffix:
            self._points("noise/scale_low", steps, np.where(ratio.undetermined, np.nan, ratio.low)[fresh])
            self._points("noise/scale_high", steps, np.where(ratio.undetermined, np.nan, ratio.high)[fresh])
        self._points(f"noise/trace{suffix}", steps, ratio.numerator[fresh])
        self._points(f"noise/grad_norm_sq{suffix}", steps, ratio.denominator[fresh])

    def _points(self, tag: str, steps: np.ndarray, values: np.ndarray) -> None:
        shown = np.isfinite(values)
        self._file.write(tag, steps[shown].tolist(), values[shown].tolist())


def layout(layers: list[str]) -> layout_pb2.Layout:
    """The dashboard: the noise scale in its interval, beside the batch size, and what it is made of, layer by layer."""
    series = layout_pb2.MarginChartContent.Series(value="noise/scale", lower="noise/scale_low", upper="noise/scale_high")
    charts = [
        layout_pb2.Chart(title="noise scale and its interval", margin=layout_pb2.MarginChartContent(series=[series])),
        _lines("noise scale and batch size", ["noise/scale$", "noise/batch_size$"]),
        _lines("trace and squared norm", ["noise/trace$", "noise/grad_norm_sq$"]),
    ]
    categories = [layout_pb2.Category(title="gradient noise", chart=charts)]
    if layers:
        names = {"noise scale": "scale", "trace": "trace", "squared norm": "grad_norm_sq"}
        by_layer = [_lines(f"{title} by layer", [f"noise/{tag}/.+"]) for title, tag in names.items()]
        categories.append(layout_pb2.Category(title="gradient noise by layer", chart=by_layer))
    return layout_pb2.Layout(category=categories)


def _lines(title: str, tags: list[str]) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
