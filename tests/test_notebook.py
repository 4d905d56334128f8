"""Progress in a notebook: what a real Jupyter kernel sends to be shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

manager = pytest.importorskip("jupyter_client.manager")

CELL = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import fitcore, models
fitcore.fit(models.linear(), *models.data(64), epochs=2, batch_size=4, verbose=0, hooks=[fitcore.Progress()])
print("end")
"""


@pytest.mark.slow
def test_one_line_lives_in_a_notebook() -> None:
    tests = Path(__file__).parent
    kernels = manager.KernelManager(kernel_name="python3")
    kernels.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernels.start_kernel()
    client = kernels.client()
    shown: list[str] = []
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)

        def note(message: dict[str, dict[str, str]]) -> None:
            if message["header"]["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                shown.append(message["content"]["text"])

        cell = CELL.format(root=str(tests.parent), tests=str(tests))
        reply = client.execute_interactive(cell, timeout=120, output_hook=note)
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        kernels.shutdown_kernel(now=True)
    lines = "".join(shown).split("\n")
    assert lines[1:] == ["end", ""]
    versions = [version for version in lines[0].split("\r") if version]
    assert versions[-1].startswith("epoch 2/2, step 16/16, loss ")
    assert any(version.startswith("epoch 1/2, step 16/16, loss ") for version in versions)
