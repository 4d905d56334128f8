"""A headless Chromium, driven by its DevTools protocol through a pair of pipes: nothing but the browser is needed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("google-chrome")

_OPTIONS = """headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update
    disable-sync remote-debugging-pipe window-size=1600,1400"""

# The text of the page, and tags of what is drawn in it; also inside the shadow trees of its elements.
_CONTENT = """(() => {
  const texts = [], drawn = {};
  const visit = node => {
    if (node.nodeType === Node.TEXT_NODE && node.data.trim()) texts.push(node.data.trim());
    if (node.localName && node.getBoundingClientRect().width)
      for (const kind of [node.localName, ...[...node.classList].map(name => `${node.localName}.${name}`)])
        drawn[kind] = (drawn[kind] || 0) + 1;
    if (['style', 'script', 'template'].includes(node.localName)) return;
    if (node.shadowRoot) visit(node.shadowRoot);
    node.childNodes.forEach(visit);
  };
  if (document.body) visit(document.body);
  return {text: texts.join('\\n'), drawn};
})()"""


class Page:
    """One page in a browser of its own.

    Args:
      profile: an empty folder.
    """

    def __init__(self, profile: Path) -> None:
        assert PATH is not None
        theirs, self._out = os.pipe()
        self._in, other = os.pipe()
        script = f"exec {PATH} {' '.join(f'--{option}' for option in _OPTIONS.split())} --user-data-dir={profile} about:blank"
        script += f" 3<&{theirs} 4>&{other}"  # where it reads and writes
        self._process = subprocess.Popen(["bash", "-c", script], pass_fds=(theirs, other), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(other)
        self._messages = open(self._in, "rb")  # noqa: SIM115 (closed in `close`)
        self._ids = itertools.count(1)
        self._session: str | None = None
        target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def content(self) -> tuple[str, dict[str, int]]:
        """(all of the text, how many elements of each kind are drawn: by tag, and by tag.class)."""
        found = self._call("Runtime.evaluate", expression=_CONTENT, returnByValue=True)["result"]["value"]
        return found["text"], found["drawn"]

    def wait_until(self, drawn: Any, seconds: float = 60.0) -> None:
        """Wait until `drawn(*content())` is true.

        Raises:
          AssertionError: it isn't, after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while not drawn(*self.content()):
            assert time.monotonic() < deadline, f"not drawn after {seconds} s: {self.content()}"
            time.sleep(0.5)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._out)
        self._messages.close()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        received = b""
        while True:
            byte = self._messages.read1(1 << 16)
            assert byte, f"Chromium ended at {method}"
            received += byte
            *whole, received = received.split(b"\0")
            for each in map(json.loads, whole):
                if each.get("id") == number:
                    assert "error" not in each, each
                    return each["result"]
