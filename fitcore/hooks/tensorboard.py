"""TensorBoard events: a point per step and a point per epoch, and what else there is to see of a fit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalars
from tensorboard.plugins.histogram import metadata as histograms_dashboard
from tensorboard.plugins.image import metadata as images_dashboard
from tensorboard.plugins.text import metadata as text_dashboard

from fitcore.hooks.event_file import EventFile, event_of, writable_folder
from fitcore.hooks.protocol import RETURNS, Answer, Hook, View, When
from fitcore.hooks.watching import BUCKETS, Distribution, Distributions, Images
from fitcore.step import RECORDERS

FOLD = "train"


class TensorBoard(Hook):
    """Writes curves to `directory`, under the tags and in the folders of `keras.callbacks.TensorBoard`, so they overlay.

        train/       batch_loss, batch_...   per step: Keras's running means since the epoch's start
                     step/...                per step: the batch's own loss, the learning rate, the gradient norm
                     epoch_loss, epoch_...   per epoch; epoch_learning_rate: the rate of the epoch's last step
                     timing/steps_per_second per compiled call, a few times a second
                     the graph of one step, as it was traced
        validation/  epoch_loss, epoch_...   per epoch; evaluation_..._vs_iterations against steps
        .            fit/plan, fit/outcome   pages of text: what `fitcore.explain` says; how it ended, and the account
                     the layout of the tab "Custom Scalars": loss, learning rate, timing

    The horizontal axis of what is per step counts optimizer steps, the first one as 1, however many run per compiled call;
    in a further fit of the same optimizer it goes on from there. That of what is per epoch is the epoch's index, from 0.
    What is written can be seen at once. What can't be written, to a full disk say, is lost with one warning; training goes on,
    and so does writing as soon as there is room.

    On demand, seen inside the compiled loop and without a change to any bit of the training, in train/:

        weights/..., gradients/..., updates/...   histograms for each trainable variable: its values after the step, the
                                                  gradient that the optimizer gets, and the difference the step made
        update_to_weight/...                      norm of that difference over that of the values before the step
        images                                    of the first batch

    Args:
      directory: a local folder; created if missing.
      record: what to write per step besides the running means of the metrics; () for a model with a train_step of its own.
      running: names of metrics whose running means are written per step.
      histograms: after every so many optimizer steps, histograms and update-to-weight ratios; compiled calls end there. None:
        never. A program that was traced with them serves the fits that have this very hook.
      images: how many of the first batch's images to show; the (first) input must be [rows, height, width, 1, 3 or 4 channels].
      graph: whether to write the graph, once.

    Raises:
      OSError: if `directory` can't be created or written in.
      ValueError: `histograms` or `images` make no sense; in a fit, also for a model that XLA compiles.
    """

    when: When = RETURNS

    def __init__(
        self,
        directory: str | os.PathLike[str],
        record: Iterable[str] = ("step/loss", "step/learning_rate", "step/gradient_norm"),
        running: Iterable[str] = ("loss",),
        *,
        histograms: int | None = None,
        images: int = 0,
        graph: bool = True,
    ) -> None:
        if histograms is not None:
            if not isinstance(histograms, int) or histograms < 1:
                raise ValueError(f"`histograms` must be a number of steps or None. Received: histograms={histograms!r}")
            self.when = When(steps=histograms, returns=True)
        if not isinstance(images, int) or images < 0:
            raise ValueError(f"`images` must be a number of images. Received: images={images!r}")
        self.directory = writable_folder(directory)
        self._running = tuple(running)
        self._curves = (*record, *self._running)
        self._distributions = None if histograms is None else Distributions(histograms)
        self._images = Images(images) if images else None
        watching = {"histograms": self._distributions, "images": self._images}
        self.record = {name: RECORDERS.get(name) for name in self._curves} | {
            name: each for name, each in watching.items() if each is not None
        }
        self._graph_wanted = graph
        self._files: dict[str, EventFile] = {}
        self._learning_rate: float | None = None
        self._done = 0  # steps that were done when this hook last looked
        self._plan = ""
        self._since: tuple[float, int] | None = None  # when a stretch of steps began, and after which step

    def begin(self, view: View) -> None:
        if view.fit.jit_compile and (self._distributions or self._images):
            raise ValueError(
                "`histograms` and `images` of fitcore.TensorBoard are seen inside the step, which XLA would then compile to "
                "other bits. Received: a model compiled with jit_compile=True"
            )
        self._plan = view.fit.describe()
        self._since, self._done = None, view.step
        if self._images is not None:
            self._images.ask(view.step)

    def after_steps(self, view: View) -> Answer:
        self._write_steps(view)
        return None

    def after_epoch(self, view: View) -> Answer:
        self._write_steps(view)
        self._since = time.monotonic(), view.step  # validation is no step's time
        logs = dict(view.logs)
        if self._learning_rate is not None:
            logs.setdefault("learning_rate", self._learning_rate)  # a Keras callback may have put its own there
        for name, value in logs.items():
            metric = name.removeprefix("val_")
            file = self._file(FOLD if metric == name else "validation")
            file.write(f"epoch_{metric}", [view.epoch], [value])
            if metric != name:
                file.write(f"evaluation_{metric}_vs_iterations", [view.step], [value])
        self._flush()
        return None

    def end(self, view: View) -> None:
        self._write_steps(view)
        if self._files:
            self._write_text("fit/outcome", view.step, outcome(view))
        for file in self._files.values():
            file.close()
        self._files, self._learning_rate = {}, None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "learning_rate": self._learning_rate, "done": self._done}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._learning_rate, self._done = state["learning_rate"], state["done"]

    def _write_steps(self, view: View) -> None:
        if view.step == self._done:
            return
        steps = range(view.first_step + 1, view.step + 1)
        if not self._files:
            self._write_once(view)
        for name in self._curves:
            if name in view.records:
                values = view.records[name]
                tag = f"batch_{name}" if name in self._running else name
                self._file(FOLD).write(tag, steps, values.tolist())
                if name == "step/learning_rate":
                    self._learning_rate = float(values[-1])
        self._write_watched(view)
        now = time.monotonic()
        if self._since is not None and view.step > self._since[1]:  # the first stretch began with a trace
            pace = (view.step - self._since[1]) / (now - self._since[0])
            self._file(FOLD).write("timing/steps_per_second", [view.step], [pace])
        self._since, self._done = (now, view.step), view.step
        self._flush()

    def _write_once(self, view: View) -> None:
        """What is known once the first steps of a fit have run."""
        self._write_text("fit/plan", view.step, self._plan)
        graph = view.fit.step_graph() if self._graph_wanted else None
        if graph is not None:
            self._graph_wanted = False
            self._file(FOLD).write_event(Event(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString()))
        images = None if self._images is None else self._images.last()
        if images is not None and len(images):  # none where another process began the fit
            size = [str(length).encode() for length in images.shape[2:0:-1]]
            encoded = np.array([*size, *(tf.io.encode_png(image).numpy() for image in images)], dtype=object)
            metadata = images_dashboard.create_summary_metadata(display_name=None, description=None)
            self._file(FOLD).write_tensor("images", view.first_step + 1, encoded, metadata)

    def _write_watched(self, view: View) -> None:
        """Histograms, if one of the steps that have them has run since the last time. No more than one has: calls end there."""
        if self._distributions is None:
            return
        step = self._distributions.last_due(view.step)
        if step <= self._done:
            return
        found, ratios = self._distributions.last()
        metadata = histograms_dashboard.create_summary_metadata(display_name=None, description=None)
        for name, distribution in found.items():
            if np.isfinite([distribution.low, distribution.high]).all():
                self._file(FOLD).write_tensor(name, step, buckets(distribution), metadata)
        for path, ratio in ratios.items():
            self._file(FOLD).write(f"update_to_weight/{path}", [step], [ratio])

    def _write_text(self, tag: str, step: int, text: str) -> None:
        page = np.array("\n".join(f"    {line}" for line in text.splitlines()).encode(), dtype=object)  # Markdown: as it stands
        self._file("").write_tensor(
            tag, step, page, text_dashboard.create_summary_metadata(display_name=None, description=None)
        )

    def _file(self, fold: str) -> EventFile:
        if fold not in self._files:
            first = () if fold else (event_of(custom_scalars.pb(layout(self._distributions is not None))),)
            self._files[fold] = EventFile(os.path.join(self.directory, fold), first)
        return self._files[fold]

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()


def buckets(distribution: Distribution) -> np.ndarray:
    """As TensorBoard has them: [buckets, 3] of left end, right end, count; where all elements are equal, one around them."""
    low, high = distribution.low, distribution.high
    if low == high:
        return np.array([[low - 0.5, high + 0.5, distribution.counts.sum()]])
    edges = np.linspace(low, high, BUCKETS + 1)
    return np.stack([edges[:-1], edges[1:], distribution.counts], axis=1)


def outcome(view: View) -> str:
    """How a fit ended, at its end, in lines."""
    history, epochs = view.fit.history(), view.fit.epochs
    stop = history.stop_reason
    if stop is not None:
        how = f"stopped by {stop.by} after step {stop.step}, in epoch {stop.epoch + 1} of {epochs}: {stop.reason}"
    elif history.epoch and history.epoch[-1] + 1 >= epochs:
        how = f"ran to the end of epoch {epochs}"
    else:
        how = f"interrupted after step {view.step}, in epoch {view.epoch + 1} of {epochs}"
    account = ", ".join(f"{name}: {value:.6g}" for name, value in history.account.items())
    return f"{how}\n{account}"


def _chart(title: str, *tags: str) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))


def layout(updates: bool) -> layout_pb2.Layout:
    """The tab "Custom Scalars"; fitcore/hooks/noise_events.py adds the gradient noise to it."""
    training = [
        _chart("loss", "step/loss$", "batch_loss$"),
        _chart("loss by epoch", "epoch_loss$"),
        _chart("learning rate", "step/learning_rate$"),
        _chart("gradient norm", "step/gradient_norm$"),
    ]
    if updates:
        training.append(_chart("update to weight", "update_to_weight/.+"))
    timing = [_chart("steps per second", "timing/steps_per_second$")]
    named = {"training": training, "timing": timing}
    return layout_pb2.Layout(category=[layout_pb2.Category(title=title, chart=charts) for title, charts in named.items()])
