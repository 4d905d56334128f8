"""RESULTS.md out of the questions' results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.claims.words import in_words, said, short

Results = Mapping[str, Mapping[str, Any]]


def table_of(results: Results, claim_ids: Sequence[str], commands: Mapping[str, str] | None = None) -> str:
    """The verdicts, a line per claim; claims that were not run are in it. Markdown, given the questions' commands."""
    claims = {claim["id"]: claim for result in results.values() for claim in result["claims"]}
    rows = []
    for id in claim_ids:
        claim = claims.get(id)
        if claim is None:
            rows.append([id, "(not run)", "", "", ""])
        else:
            command = "" if commands is None else f"`{commands[id[0]]}`"
            rows.append([id, claim["text"], in_words(claim), _effect(claim), command])
    if commands is None:
        return "\n".join(f"{row[0]:4s} {row[1]}: {row[2].replace('**', '')}" for row in rows)
    head = ["| claim | | verdict | effect (95 % interval) | command |", "|---|---|---|---|---|"]
    return "\n".join(head + [f"| [{r[0]}](#{r[0].lower()}) | {r[1]} | {r[2]} | {r[3]} | {r[4]} |" for r in rows])


def write(
    out: Path,
    results: Results,
    folders: Mapping[str, Path],
    *,
    command: str,
    sha256: str,
    versions: Mapping[str, str],
    modules: Mapping[str, str],
    claim_ids: Sequence[str],
) -> Path:
    """Write `out`/RESULTS.md and `out`/results/*.png; returns the former's path."""
    out.mkdir(parents=True, exist_ok=True)
    plots = out / "results"
    shutil.rmtree(plots, ignore_errors=True)
    plots.mkdir()
    for letter, result in results.items():
        for plot in result["plots"]:
            shutil.copy(folders[letter] / plot["file"], plots / plot["file"])
    commands = {
        letter: f"python -m experiments.{modules[letter]}{' --full' if result['full'] else ''}"
        for letter, result in results.items()
    }
    text = [
        "# What the experiments found",
        "",
        f"Written by `{command}`: fifteen examples, each as it is written where it runs and in a form that works where it "
        "doesn't, and for every claim a verdict by a rule that is stated with it. Intervals are 95 %, over paired seeds.",
        "",
        table_of(results, claim_ids, commands),
        "",
        f"SHA-256 of all verdicts and numbers, times left out: `{sha256}`. The same command gives it again on the same machine "
        "with the same versions.",
    ]
    for letter in sorted(results):
        text += ["", *_section(letter, results[letter], commands[letter])]
    text += ["", *_environment(folders, versions), ""]
    path = out / "RESULTS.md"
    path.write_text("\n".join(text))
    return path


def _section(letter: str, result: Mapping[str, Any], command: str) -> list[str]:
    lines = [f"## {letter}. {result['title']}", "", f"`{command}`", "", "Data:", *(f"- {data}" for data in result["data"])]
    for plot in result["plots"]:
        lines += ["", f"![{plot['title']}](results/{plot['file']})"]
    for example in result["examples"]:
        lines += ["", f"### {example['id']}: {example['title']}", ""]
        written = example["as_written"]
        lines += [f"As written it {written}." if "\n" not in written and ": " not in written else "As written it raises"]
        if ": " in written:
            lines += ["```", written.strip(), "```"]
        lines += ["", *_figures(example["found"])]
    for claim in result["claims"]:
        lines += ["", f'### <a id="{claim["id"].lower()}"></a>{claim["id"]}: {claim["text"]}', ""]
        lines += [f"{in_words(claim)}: {claim['because']}.", "", f"The rule: {claim['rule']}", ""]
        lines += _figures(claim["measurements"])
    if result["beyond"]:
        lines += ["", f"### {letter}: beyond the claims"]
        for found in result["beyond"]:
            lines += ["", f"**{found['title']}**", "", *_figures(found["found"])]
    if result["seconds"]:
        lines += ["", f"### {letter}: measured times", ""]
        lines += [f"- {what}: {short(seconds)} s" for what, seconds in result["seconds"].items()]
    return lines


def _figures(found: Mapping[str, Any]) -> list[str]:
    return [f"- {name}: {said(value)}" for name, value in found.items()]


def _effect(claim: Mapping[str, Any]) -> str:
    """A claim's first effect, or its first measurement."""
    found = claim["measurements"]
    effects = {name: value["says"] for name, value in found.items() if isinstance(value, dict) and "says" in value}
    first = next(iter((effects or {name: said(value) for name, value in found.items()}).items()), ("", ""))
    return f"{first[0]}: {first[1]}"


def _environment(folders: Mapping[str, Path], versions: Mapping[str, str]) -> list[str]:
    lines = ["## Environment", "", *(f"- {name} {version}" for name, version in versions.items())]
    for letter, folder in sorted(folders.items()):
        seen = json.loads((folder / "environment.json").read_text())
        if letter == min(folders):
            lines += [f"- {seen['platform']}, {seen['cpu_cores']} CPU cores, {', '.join(seen['devices'])}"]
            lines += [f"- op determinism: {'on' if seen['deterministic'] else 'off'}, commit {seen['git_commit']}", ""]
        took = (folder / "seconds.txt").read_text().strip() if (folder / "seconds.txt").exists() else "?"
        lines += [f"- question {letter}: {seen['started']}, {took} s"]
    return lines
