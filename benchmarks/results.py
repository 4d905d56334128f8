"""Writes benchmarks/RESULTS.md from what the other commands have measured.

    python -m benchmarks.peers --rounds=7 --json=peers.json       # and limit, growth, streaming: any of them, each with --json
    python -m benchmarks.results peers.json [limit.json ...] [--out=benchmarks/RESULTS.md]

Each file becomes a section, in the order given. Every number and every sentence is made from the files; nothing is measured.
README's headline is taken from the table of peers (benchmarks/headline.py) unless `--out` is another file.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import growth, headline, limit, streaming
from benchmarks.headline import CONVOLUTIONS, geometric_mean

FLAGS = flags.FLAGS
OUT = Path(__file__).with_name("RESULTS.md")
NAMES = {"keras": "Keras", "tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}
BAR = 40  # characters
LISTED = (
    "keras", "keras_10", "keras_100", "keras_xla", "tape", "torch", "torch_compile", "jax", "jax_scan",
    "exact", "exact_noise", "fast_noise", "fast",
)  # fmt: skip

Row = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [line.replace("|  |", "| |") for line in [*lines, *("| " + " | ".join(row) + " |" for row in rows)]]


def bars(values: Mapping[str, float]) -> list[str]:
    """A plot in characters, of positive numbers on a scale of their own."""
    longest, width = max(values.values()), max(map(len, values))
    drawn = [f"{name:{width}s} {'#' * max(1, round(BAR * value / longest))} {value:.2f}" for name, value in values.items()]
    return ["```", *drawn, "```"]


def said_of(data: Row) -> str:
    """Where and with what it was measured."""
    names = NAMES if data["command"] == "peers" else ("keras", "tensorflow")
    versions = ", ".join(f"{NAMES[name]} {version}" for name, version in data["versions"].items() if name in names)
    where = f"{data['cores']} CPU cores ({data['machine']})" if data["device"] == "cpu" else "a GPU"
    return f"on {where}, {data['date']}: {versions}"


# --- peers ----------------------------------------------------------------------------------------------------------------


def of_peers(data: Row) -> list[str]:
    """Who takes how long for a step."""
    results = {result["workload"]: result["peers"] for result in data["results"]}
    peers = [peer for peer in LISTED if any(peer in rows for rows in results.values())]
    rows = []
    for name, found in results.items():
        cells = [f"{found[p]['us_per_step']:.1f} ({found[p]['times_fast']:.2f})" if p in found else "" for p in peers]
        rows.append([name, *cells])
    means = {peer: geometric_mean(rows[peer]["times_fast"] for rows in results.values() if peer in rows) for peer in peers}
    rows.append(["**geometric mean**", *(f"**({means[peer]:.2f})**" for peer in peers)])
    return [
        "## Beside its peers",
        "",
        f"From `python -m benchmarks.peers --rounds={data['rounds']}` {said_of(data)}. µs per step, medians of "
        f"{data['rounds']} interleaved rounds, each peer in a process of its own; in brackets how many times as long as "
        "fitcore's fast tier took in the same rounds. `keras_100` is `model.fit` with `steps_per_execution=100`; `_noise` "
        "measures the gradient noise at each step.",
        "",
        *table(["", *peers], rows),
        "",
        "How many times as long as the fast tier, geometric means over the workloads:",
        "",
        *bars(means),
        "",
        *(f"- {sentence}" for sentence in _sentences(results, peers)),
        *(
            f"- {peer} failed on {result['workload']}: {why}."
            for result in data["results"]
            for peer, why in result["failed"].items()
        ),
    ]


def _sentences(results: Mapping[str, Row], peers: Sequence[str]) -> list[str]:
    """What the table says, in words."""
    sentences = []
    for peer in peers:
        if peer.startswith(("fast", "exact")):
            continue
        times = {name: rows[peer]["times_fast"] for name, rows in results.items() if peer in rows}
        behind = [f"{name} ({value:.2f})" for name, value in times.items() if value < 1]
        mean = f"{peer} takes {geometric_mean(times.values()):.2f} times as long as the fast tier"
        ahead = f"longer on every one of {len(times)}" if not behind else f"less on {', '.join(behind)}"
        sentences.append(f"{mean}; {ahead}.")
        plain = {name: value for name, value in times.items() if name not in CONVOLUTIONS}
        if peer.startswith("jax") and plain and len(plain) < len(times):
            sentences.append(f"{peer} without convolutions: {geometric_mean(plain.values()):.2f} times as long.")
    for peer in ("keras", "keras_100"):
        both = [
            rows[peer]["us_per_step"] / rows["exact"]["us_per_step"]
            for rows in results.values()
            if {peer, "exact"} <= set(rows)
        ]
        if both:
            said = "by default" if peer == "keras" else "with 100 steps per execution"
            mean = f"{geometric_mean(both):.2f} times as fast as `model.fit` {said}"
            sentences.append(f"The exact tier is {mean}, as a geometric mean of ratios of medians; {min(both):.2f} at worst.")
    first = [
        f"{name} " + " and ".join(f"{rows[tier]['first_s']:.1f}" for tier in ("keras", "exact", "fast") if tier in rows)
        for name, rows in results.items()
    ]
    who = ", ".join(tier for tier in ("keras", "exact", "fast") if tier in peers)
    sentences.append(f"First epoch, all that is traced, compiled and measured included, in seconds, {who}: {'; '.join(first)}.")
    other = [
        f"{peer} on {name} ({what})"
        for name, rows in results.items()
        for peer, row in rows.items()
        for what in _other_work(row, rows.get("keras", rows["fast"]))
    ]
    if other:
        sentences.append(f"Not quite the same work as Keras's: {', '.join(other)}.")
    return sentences


def _other_work(row: Row, reference: Row) -> list[str]:
    found = [] if row["parameters"] == reference["parameters"] else [f"{row['parameters']} parameters"]
    return found + ([] if math.isclose(row["loss"], reference["loss"], rel_tol=0.2) else [f"first loss {row['loss']:.3g}"])


# --- the others -----------------------------------------------------------------------------------------------------------


def of_limit(data: Row) -> list[str]:
    """How far from the floor."""
    means = {tier: geometric_mean(row[f"{tier}_times_floor"] for row in data["rows"]) for tier in ("exact", "fast")}
    return [
        "## The limit",
        "",
        f"From `python -m benchmarks.limit --rounds={data['rounds']}` {said_of(data)}. The floor is the larger of what the "
        "step's matrix products and convolutions take alone, by TensorFlow's ops at these shapes, and what moving its rows and "
        "parameters takes. µs per step, medians.",
        "",
        *table(limit.HEAD, map(limit.cells, data["rows"])),
        "",
        f"As geometric means the exact tier takes {means['exact']:.2f} times the floor, the fast one {means['fast']:.2f}.",
    ]


def of_growth(data: Row) -> list[str]:
    """How the cost of a step grows."""
    return [
        "## Growth",
        "",
        f"From `python -m benchmarks.growth --numerics={data['numerics']}` {said_of(data)}. A step's cost goes as size to the "
        "power of the exponent: 0 is no growth, 1 in proportion; at the end: between the two largest sizes, and so memory's, "
        f"which is said of at least {growth.SURE:g} MB. MB: at the peak of a process's first fit, beyond what it held before "
        "with model and data made; in brackets what it still holds afterwards.",
        "",
        *table(growth.HEAD, map(growth.cells, data["rows"])),
    ]


def of_streaming(data: Row) -> list[str]:
    """What fit adds to a pipeline."""
    return [
        "## Streaming",
        "",
        f"From `python -m benchmarks.streaming` {said_of(data)}.",
        "",
        *(f"- {line}." for line in streaming.said(data)),
    ]


SECTIONS: Mapping[str, Callable[[Row], list[str]]] = {
    "peers": of_peers,
    "limit": of_limit,
    "growth": of_growth,
    "streaming": of_streaming,
}


def written(measured: Sequence[Row]) -> str:
    """The page, of these measurements.

    Raises:
      ValueError: one of them is no benchmark's that is known here.
    """
    lines = ["# How fast, beside what", "", "Written by `python -m benchmarks.results`; how to measure is in its docstring."]
    for data in measured:
        if data.get("command") not in SECTIONS:
            raise ValueError(f"No file of {', '.join(SECTIONS)}: it says command={data.get('command')!r}.")
        lines += ["", *SECTIONS[data["command"]](data)]
    return "\n".join(map(_filled, lines)) + "\n"


def _filled(line: str) -> str:
    """A paragraph in lines that fit; a table's row as it is."""
    indent = "  " if line.startswith("- ") else ""
    return line if line.startswith("|") else textwrap.fill(line, 128, subsequent_indent=indent, break_on_hyphens=False)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("Which files? As written by the other commands with --json.")
    try:
        page = written([json.loads(Path(path).read_text()) for path in argv[1:]])
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    Path(FLAGS.out).write_text(page)
    if Path(FLAGS.out) == OUT:
        headline.put(page)
    print(f"Wrote {FLAGS.out}")


if __name__ == "__main__":
    flags.DEFINE_string("out", str(OUT), "File to write.")
    app.run(main)
