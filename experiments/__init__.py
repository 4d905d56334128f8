"""Experiments, each launched by flags: `python -m experiments.NAME --help`. `python -m experiments` lists them."""

import sys

import fitcore_terminal
from experiments.listing import unknown

_module = fitcore_terminal.module()
if _module is not None and _module.startswith(f"{__name__}.") and (_why := unknown(_module)):
    sys.exit(_why)
if _module != __name__:  # the list needs no TensorFlow
    fitcore_terminal.start(__name__)
