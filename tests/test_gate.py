"""The benchmarks' own judgements. In a process of its own: each benchmark defines flags, some of the same name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CODE = """
import json, sys, tempfile
from pathlib import Path

from absl import flags

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
assert gate.fallen({}, now)[0] == "mlp fast: 3.79 times as fast as model.fit; nothing was recorded of it"
assert gate.over([3.0, 8.0, 4.0], [1.0, 2.0, 2.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}

keras = {"parameters": 10, "loss": 1.0}
assert peers.other_work({"parameters": 10, "loss": 1.1}, keras) == ""
assert peers.other_work({"parameters": 11, "loss": 1.1}, keras) == "P"
assert peers.other_work({"parameters": 10, "loss": 0.7}, keras) == "L"

# From its flags to its exit status, with measurements that are given.
medians = {}
gate.measured = lambda workload, rounds: {f"{workload} fast": {"median": medians[workload], "low": 2.0, "high": 9.0}}
gate.RECORDED = Path(tempfile.mkdtemp(), "gate.json")

def status(*arguments):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["gate", "--workload=mlp", "--workload=cnn", *arguments])
    try:
        gate.main(["gate"])
    except SystemExit as exit:
        return exit.code
    finally:
        for name in ("record", "workload", "device"):
            flags.FLAGS[name].unparse()
    return 0

medians.update(mlp=3.0, cnn=3.0)
assert "Nothing was recorded" in status()
assert status("--record") == 0
recorded = json.loads(gate.RECORDED.read_text())
assert recorded["ratios"]["cnn fast"]["median"] == 3.0 and recorded["device"] == "cpu" and "keras" in recorded["versions"]
assert status() == 0
medians["cnn"] = 2.01
assert status() == 0
medians["cnn"] = 1.99
assert status() == "cnn fast: 1.99 times as fast as model.fit; it was 3.00, 2.00 at worst"
gate.RECORDED.write_text(json.dumps(recorded | {"cores": 1000}))
assert "1000 cores" in status()
gate.RECORDED.write_text(json.dumps(recorded | {"device": "gpu"}))
assert "device gpu" in status()
"""


def test_what_has_fallen_and_what_is_other_work() -> None:
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True)
