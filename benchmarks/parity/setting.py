"""oneDNN's two settings: kernels of oneDNN, or TensorFlow's own; and what of the CPU decides which one is the default.

TensorFlow reads the setting when it is loaded. The other one therefore takes a process of its own.
"""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from fitcore import keras_private

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# Those by which kernels are chosen. TensorFlow has oneDNN on by default where a CPU has one for neural networks: the last ones.
FEATURES = ("avx", "avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")


def here() -> str:
    """This process's setting: "1" with oneDNN on, "0" with it off."""
    return str(int(keras_private.onednn_is_on()))


def other() -> str:
    return str(1 - int(here()))


def run(setting: str, arguments: Sequence[str]) -> int:
    """Run the parity command in a process that has this setting; returns the exit status."""
    command = [sys.executable, "-m", "benchmarks.parity", *arguments]
    return subprocess.run(command, env=os.environ | {VARIABLE: setting}, check=False).returncode


def by_default() -> str:
    """The setting that TensorFlow has on this CPU where nobody asks for one."""
    if VARIABLE not in os.environ:
        return here()
    code = "from benchmarks.parity import setting; print(setting.here())"
    unset = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run([sys.executable, "-c", code], env=unset, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()[-1]


def cpu(info: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> dict[str, Any]:
    """The CPU's name, and which of `FEATURES` it has: as Linux tells, empty elsewhere."""
    facts: dict[str, str] = {}
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    has = facts.get("flags", "").split()
    return {"name": facts.get("model name", platform.processor()), "features": [name for name in FEATURES if name in has]}
