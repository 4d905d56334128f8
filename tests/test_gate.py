"""The benchmarks' own judgements. In a process of its own: each benchmark defines flags, some of the same name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CODE = """
from benchmarks import gate, peers, workloads

assert peers.NAMES == tuple(workloads.WORKLOADS) and peers.DEFAULT == workloads.DEFAULT  # it has no TensorFlow to ask

before = {"mlp fast": {"median": 4.0, "low": 3.8, "high": 4.4}, "mlp exact": {"median": 3.0, "low": 2.9, "high": 3.1}}
now = {name: dict(ratio) for name, ratio in before.items()}
assert gate.fallen(before, now) == []
now["mlp fast"]["median"] = 3.81
assert gate.fallen(before, now) == []
now["mlp fast"]["median"] = 3.79
assert gate.fallen(before, now) == ["mlp fast: 3.79 times as fast as model.fit; it was 4.00, 3.80 at worst"]
assert gate.fallen(before, {}) == []  # not measured

keras = {"parameters": 10, "loss": 1.0}
assert peers.other_work({"parameters": 10, "loss": 1.1}, keras) == ""
assert peers.other_work({"parameters": 11, "loss": 1.1}, keras) == "P"
assert peers.other_work({"parameters": 10, "loss": 0.7}, keras) == "L"
"""


def test_what_has_fallen_and_what_is_other_work() -> None:
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True)
