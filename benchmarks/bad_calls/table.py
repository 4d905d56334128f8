"""Writes a section of PARITY.md: `python -m benchmarks.bad_calls.table NEWEST.json OLDEST.json`, from what `--json` wrote."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.bad_calls import CALLS, Row
from benchmarks.parity.table import BAD_CALLS, PARITY, bad_calls_section

HEAD = """
Each bad call is made by Keras and by fitcore, with a freshly built model. Where Keras raises, fitcore raises the same class or
a subclass (fitcore/errors.py), so that what catches Keras's errors catches fitcore's; where neither raises, both return the
same values. A cell names the class that Keras raises, and fitcore's if it is another. What Keras takes without a word and
fitcore refuses has its reason in the last column.
"""


def section(results: Sequence[dict[str, Any]]) -> str:
    """The section, heading included, for results as `--json` writes them.

    Raises:
      ValueError: if they lack a call, or one was answered wrongly.
    """
    columns = [{row["call"]: Row(**row) for row in result["rows"]} for result in results]
    lines = [BAD_CALLS.rstrip("\n"), HEAD.strip("\n"), ""]
    for result in results:
        versions = [f"{name} {result['versions'][name.lower()]}" for name in ("Keras", "TensorFlow", "Python")]
        lines.append(f"- {', '.join(versions)}, {result['device']}, {result['date']}: {len(result['rows'])} calls")
    for theme, calls in CALLS.items():
        heads = [f"Keras {result['versions']['keras']}" for result in results]
        lines += ["", f"### {theme}", f"| call | {' | '.join(heads)} | why refused |", "|---|---" + "|---" * len(heads) + "|"]
        for bad in calls:
            if any(bad.text not in rows or rows[bad.text].problem for rows in columns):
                raise ValueError(f"Results must hold every call, answered rightly. Missing or wrong: {bad.text}")
            lines.append(f"| {bad.text} | {' | '.join(cell(rows[bad.text]) for rows in columns)} | {bad.why} |")
    return "\n".join(lines) + "\n"


def cell(row: Row) -> str:
    """What is raised."""
    expected, actual = (f"`{name}`" if name else "nothing" for name in (row.keras, row.fitcore))
    return expected if actual == expected else f"{expected}; fitcore {actual}"


if __name__ == "__main__":
    text = PARITY.read_text()
    written = section([run for name in sys.argv[1:] for run in json.loads(pathlib.Path(name).read_text())])
    PARITY.write_text(text.removesuffix(bad_calls_section(text)) + written)
