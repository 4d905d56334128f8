"""What all tests share: a quiet TensorFlow on the CPU, and Keras as in a new process for each test."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Iterator

import keras
import pytest


def pytest_collection_finish() -> None:
    """`clear_session` collects garbage, for each test: what is imported by now needn't be looked through each time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    """Seed everything, let names count from zero, and put back what a test may change for the whole process."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.utils.set_random_seed(1234)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
