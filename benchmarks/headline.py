"""README's headline, made from the table of peers in benchmarks/RESULTS.md; `python -m benchmarks.results` puts it there."""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- headline, by benchmarks.results from benchmarks/RESULTS.md -->\n", "<!-- end of the headline -->\n"
CONVOLUTIONS = ("cnn", "resnet")  # which XLA does badly on a CPU
ROW, CELL = re.compile(r"^\| *(.*?) *\|$"), re.compile(r"([\d.]+) \(([\d.]+)\)")

Table = Mapping[str, Mapping[str, tuple[float, float]]]  # by workload and peer: µs per step, times as long as the fast tier


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def table_in(page: str) -> Table:
    """The table of peers: the first whose columns hold model.fit and both tiers; empty without one."""
    peers: list[str] = []
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for line in page.splitlines():
        row = ROW.match(line)
        cells = [cell.strip() for cell in line.strip("|").split("|")] if row else []
        if not peers:
            peers = cells[1:] if {"keras", "exact", "fast"} <= set(cells) else []
        elif not row:
            break
        elif any(numbers := [CELL.fullmatch(cell) for cell in cells[1:]]):
            found[cells[0]] = {peer: (float(n[1]), float(n[2])) for peer, n in zip(peers, numbers) if n}
    return found


def said(page: str) -> str:
    """The headline, of a page as `benchmarks.results` writes it; empty if it has no table of peers."""
    table = table_in(page)
    if not table:
        return ""
    where = re.search(r"\bon\s+(\d+\s+CPU\s+cores|a\s+GPU)\b", page)
    exact = {name: row["keras"][0] / row["exact"][0] for name, row in table.items()}
    each = ", ".join(f"{name} {times:.1f}" for name, times in sorted(exact.items(), key=lambda item: -item[1]))
    times = {peer: [row[peer][1] for row in table.values() if peer in row] for peer in ("keras", "torch")}
    sentences = [
        f"Measured{f' on {where[1]}' if where else ''}, every peer in turn ([benchmarks/RESULTS.md](benchmarks/RESULTS.md)): "
        f"**{geometric_mean(exact.values()):.1f} times as fast as `model.fit`** as a geometric mean of {len(exact)} models "
        f"({each}).",
        'Where last bits may differ, `numerics="fast"` is '
        + " and ".join(
            f"{geometric_mean(values):.1f} times as fast as {'`model.fit`' if peer == 'keras' else 'PyTorch'}"
            f" ({min(values):.1f} at worst)"
            for peer, values in times.items()
            if values
        )
        + _beside_jax(table)
        + ".",
    ]
    return textwrap.fill(" ".join(sentences), 128, break_on_hyphens=False, break_long_words=False) + "\n"


def _beside_jax(table: Table) -> str:
    plain = [row["jax_scan"][1] for name, row in table.items() if "jax_scan" in row and name not in CONVOLUTIONS]
    if not plain:
        return ""
    return f"; of JAX's compiled scan it takes {1 / geometric_mean(plain):.2f} times the time where there is no convolution"


def put(page: str, readme: Path = README) -> None:
    """Write the headline of a page into the README, between its marks; a page without a table of peers changes nothing.

    Raises:
      ValueError: the README has no such marks.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} doesn't hold the lines {BEGIN.strip()!r} and {END.strip()!r}")
    if headline := said(page):
        readme.write_text(before + begin + headline + end + after)
