"""An experiment for tests/test_verify.py: two weights beside each other; the loss is the second, so its last bit shows at once.

In its second fit the environment variable NUDGE_AFTER=N moves the second weight by one unit in the last place after N steps.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

import fitcore
from fitcore.command_line import launch


class Nudge(fitcore.Hook):
    when = fitcore.EVERY_STEP

    def __init__(self, kernel: keras.Variable, after: int) -> None:
        self.kernel, self.after = kernel, after

    def after_steps(self, view: fitcore.View) -> None:
        if view.step == self.after:
            self.kernel.assign(np.nextafter(np.asarray(self.kernel), np.float32(np.inf)))


def fit(name: str, callbacks: list[keras.callbacks.Callback], nudge_after: int = 0, fit: Any = fitcore.fit, **more: Any) -> Any:
    """Trains in 4 epochs of 3 steps; the weights are NAME_first/kernel and NAME_second/kernel."""
    inputs = keras.Input((1,))
    first, second = (keras.layers.Dense(1, use_bias=False, name=f"{name}_{which}") for which in ("first", "second"))
    model = keras.Model(inputs, keras.layers.Concatenate()([first(inputs), second(inputs)]))
    model.compile(keras.optimizers.SGD(2.0**-10), lambda y, outputs: keras.ops.mean(outputs[:, 1:]))
    if nudge_after:
        more["hooks"] = [Nudge(second.kernel, nudge_after)]
    ones = np.ones((12, 1), "float32")
    fit(model, ones, ones, batch_size=4, epochs=4, verbose=0, callbacks=callbacks, **more)
    return model


def main(run: launch.RunDirectory) -> dict[str, Any]:
    fit("one", [run.history("one")])
    model = fit("two", [run.history("two")], int(os.environ.get("NUDGE_AFTER", "0")))
    return {"fit_seconds": os.getpid(), "weights_sha256": launch.weights_sha256(model)}


if __name__ == "__main__":
    launch.run(main)
