"""oneDNN's two settings: TensorFlow reads which one holds when it is loaded, hence the other one takes a process of its own."""

from __future__ import annotations

from tensorflow.python.framework import test_util


def other_setting() -> dict[str, str]:
    """The variable of the environment that gives a process the setting which this one doesn't have."""
    return {"TF_ENABLE_ONEDNN_OPTS": "0" if test_util.IsMklEnabled() else "1"}
