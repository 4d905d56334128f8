"""What all tests share: a quiet TensorFlow on the CPU, and Keras as in a new process for each test."""

import gc
import os
import signal
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["FITCORE_CACHE"] = os.path.join(tempfile.mkdtemp(), "plans.json")  # for child processes too; not the user's own

from collections.abc import Iterator

import keras
import pytest
from absl import app
from absl.testing import flagsaver
from tensorflow.python.framework.config import disable_op_determinism

from benchmarks.parity.strategies import two_logical_cpus
from fitcore.command_line import launch

# A shell that starts tests in the background has them ignore Ctrl-C, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

two_logical_cpus()  # the first of them is what tests without a strategy train on

app.define_help_flags()  # here, because flagsaver would take away what is defined under it


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    """Seed everything, let names count from zero, and put back what a test may change for the whole process."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.utils.clear_session()  # collects garbage, and what is left stays: modules, and what TensorFlow keeps of every graph;
    gc.freeze()  # looked through for each test, it would take longer than most of them
    keras.utils.set_random_seed(1234)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    disable_op_determinism()  # which an experiment launched in this process has switched on


@pytest.fixture
def launched(monkeypatch, capsys):
    """Launches `main` by flags in this process; returns (exit status, output, error output)."""

    def start(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["line", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit:
            launch.run(main)
        out, err = capsys.readouterr()
        if isinstance(exit.value.code, str):  # Python prints it, and exits with 1
            return 1, out, err + exit.value.code
        return exit.value.code or 0, out, err

    return start
