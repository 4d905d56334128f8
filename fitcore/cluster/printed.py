"""What to run on several hosts: by hand, under Slurm, as an indexed job of Kubernetes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from fitcore.cluster.job import tf_config

PORT = 2222  # where TensorFlow's workers listen by custom

_SLURM = """\
#!/bin/bash
#SBATCH --nodes={count}
#SBATCH --ntasks-per-node=1
#SBATCH --kill-on-bad-exit=1
export FITCORE_HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/.*/"&:{port}"/' | paste -sd, -)
srun --kill-on-bad-exit=1 bash -c '
export TF_CONFIG="{config}"
exec {command}'
"""

_KUBERNETES = """\
apiVersion: v1
kind: Service
metadata: {{name: fitcore}}
spec:
  clusterIP: None
  selector: {{job-name: fitcore}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: fitcore}}
spec:
  completions: {count}
  parallelism: {count}
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      subdomain: fitcore
      restartPolicy: Never
      containers:
      - name: worker
        image: IMAGE
        command: {command}
"""


def printed(command: Sequence[str], workers: int, hosts: Sequence[str]) -> str:
    """Environment and command for each host, and the same for Slurm and Kubernetes.

    Args:
      command: what each worker runs.
      workers: how many.
      hosts: where they listen, "host" or "host:port"; empty: names to be replaced.
    """
    named = hosts or [f"HOST{i}" for i in range(workers)]
    named = [host if ":" in host else f"{host}:{PORT}" for host in named]
    lines = ["# By hand: on each host its line, all within a few minutes; they wait for each other."]
    for i, host in enumerate(named):
        lines.append(f"# {host}\nTF_CONFIG={shlex.quote(tf_config(named, i))} {shlex.join(command)}")
    slurm = _in_shell("$FITCORE_HOSTS", "$SLURM_PROCID")
    inner = shlex.join(command).replace("'", "'\\''")
    lines.append(
        f"\n# Slurm: sbatch FILE, with this in it.\n{_SLURM.format(count=workers, port=PORT, config=slurm, command=inner)}"
    )
    pods = ", ".join(f'\\"fitcore-{i}.fitcore:{PORT}\\"' for i in range(workers))
    config = _in_shell(pods, "$JOB_COMPLETION_INDEX")
    shell = json.dumps(["bash", "-c", f'export TF_CONFIG="{config}"; exec {shlex.join(command)}'])
    lines.append(
        "# Kubernetes: kubectl apply -f FILE, with this in it; IMAGE is yours. It needs Kubernetes 1.24 (indexed jobs)."
    )
    lines.append(_KUBERNETES.format(count=workers, command=shell))
    return "\n".join(lines)


def _in_shell(hosts: str, index: str) -> str:
    """TF_CONFIG inside a shell's double quotes, where hosts and index may be variables."""
    config = f'{{"cluster": {{"worker": [HOSTS]}}, "task": {{"type": "worker", "index": {index}}}}}'
    return config.replace('"', '\\"').replace("HOSTS", hosts)
