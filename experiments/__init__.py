"""Experiments, each launched by flags: `python -m experiments.NAME --help`."""

import fitcore_terminal

fitcore_terminal.start(__name__)
