"""Experiments, each launched by flags: `python -m experiments.NAME --help`."""

import os

# TensorFlow's notes about the processor it was built for say nothing to whoever launches an experiment.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
