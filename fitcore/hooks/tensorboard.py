"""TensorBoard events: a point per step and a point per epoch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.scalar.metadata import create_summary_metadata

from fitcore.hooks.protocol import RETURNS, Answer, Hook, View


class TensorBoard(Hook):
    """Writes curves to `directory`, under the tags and in the folders of `keras.callbacks.TensorBoard`, so they overlay.

        train/       batch_loss, batch_...   per step: Keras's running means since the epoch's start
                     step/...                per step: the batch's own loss, the learning rate, the gradient norm
                     epoch_loss, epoch_...   per epoch
        validation/  epoch_loss, epoch_...   per epoch; evaluation_..._vs_iterations against steps

    The horizontal axis of what is per step counts optimizer steps, the first one as 1, however many run per compiled call.

    Args:
      directory: where; created if missing.
      record: what to write per step besides the running means of the metrics.
      running: names of metrics whose running means are written per step.

    Raises:
      OSError: if `directory` can't be written.
    """

    when = RETURNS

    def __init__(
        self,
        directory: str | os.PathLike[str],
        record: tuple[str, ...] = ("step/loss", "step/learning_rate", "step/gradient_norm"),
        running: tuple[str, ...] = ("loss",),
    ) -> None:
        self.directory = os.fspath(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.record = (*record, *running)
        self._running = running
        self._writers: dict[str, Any] = {}
        self._write_curve: Any = None

    def after_steps(self, view: View) -> Answer:
        self._write_steps(view)
        return None

    def after_epoch(self, view: View) -> Answer:
        self._write_steps(view)
        for name, value in view.logs.items():
            fold = "validation" if name.startswith("val_") else "train"
            with self._writer(fold).as_default(step=view.epoch):
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value)
            if fold == "validation":
                with self._writer(fold).as_default(step=view.step):
                    tf.summary.scalar(f"evaluation_{name.removeprefix('val_')}_vs_iterations", value)
        for writer in self._writers.values():
            writer.flush()
        return None

    def end(self, view: View) -> None:
        self._write_steps(view)
        for writer in self._writers.values():
            writer.close()
        self._writers, self._write_curve = {}, None

    def _write_steps(self, view: View) -> None:
        for name in self.record:
            values = view.records.get(name, np.empty(0))
            if len(values):
                tag = f"batch_{name}" if name in self._running else name
                steps = np.arange(view.first_step, view.first_step + len(values)) + 1
                self._curve_writer()(tf.constant(tag), tf.constant(steps, tf.int64), tf.constant(values, tf.float32))

    def _writer(self, fold: str) -> Any:
        if fold not in self._writers:
            self._writers[fold] = tf.summary.create_file_writer(os.path.join(self.directory, fold))
        return self._writers[fold]

    def _curve_writer(self) -> Any:
        """One compiled loop that writes a whole curve: a call of tf.summary for each point would cost more than the step."""
        if self._write_curve is None:
            writer, metadata = self._writer("train"), create_summary_metadata(display_name=None, description=None)

            def write_curve(tag: tf.Tensor, steps: tf.Tensor, values: tf.Tensor) -> None:
                def write(i: tf.Tensor) -> tf.Tensor:
                    tf.summary.write(tag, values[i], step=steps[i], metadata=metadata)
                    return i + 1

                with writer.as_default():
                    tf.while_loop(lambda i: i < tf.size(steps), write, [0], parallel_iterations=1)

            specs = [tf.TensorSpec([], tf.string), tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.float32)]
            self._write_curve = tf.function(write_curve, autograph=False, input_signature=specs)
        return self._write_curve
