"""Runs and their state, flags and results; two of them held against each other.

    python -m fitcore.runs [DIR]                 those in and below DIR, runs/ by default
    python -m fitcore.runs show RUN
    python -m fitcore.runs compare RUN OTHER     status 0 if identical, 1 if not

Each takes --json. A run is a directory that an experiment has written; how far it is can be looked up while it runs. It is
"running" as long as its process lives, "finished" if it has a result, "failed" if it ended with an error, else "killed", by
Ctrl-C too. Numbers of steps and epochs count from 0.

It loads neither TensorFlow nor Keras: see `fitcore/__init__.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fitcore.command_line import records
from fitcore.command_line.differences import Difference, Names, in_fit, in_result, leaves, same
from fitcore.command_line.records import Record, aligned

IDENTICAL, DIFFERS, WRONG = 0, 1, 2  # exit status
METRICS = 4  # in a line of the list; all are in --json


class NoRunError(Exception):
    """There is no run in this place."""


def listed(directory: Path) -> list[dict[str, Any]]:
    """The runs in and below a directory, each with its path, state, those flags that differ among them, metrics and seconds.

    Raises:
      NoRunError: there is no such directory.
    """
    if not directory.is_dir():
        raise NoRunError(f"{directory} is no directory")
    found = list(records.find(directory))
    names = records.differing(found)
    return [
        {
            "run": str(record.path),
            "state": record.state,
            "flags": {name: record.flags[name] for name in names if name in record.flags},
            "metrics": record.metrics(),
            "seconds": record.seconds(),
            **({"error": record.status["error"]} if record.status.get("error") else {}),
        }
        for record in found
    ]


def table(runs: Sequence[Mapping[str, Any]], directory: Path) -> str:
    """The list, a line per run."""
    names = sorted({name for run in runs for name in run["flags"]})
    rows = [["run", "state", *names, "seconds", "metrics"]]
    for run in runs:
        path = Path(run["run"])
        shown = list(run["metrics"].items())[:METRICS]
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in shown) + (" ..." if len(run["metrics"]) > METRICS else "")
        seconds = "" if run["seconds"] is None else f"{run['seconds']:.1f}"
        flags = [run["flags"].get(name, "") for name in names]
        place = str(path.relative_to(directory)) if path != directory else str(path)
        rows.append([place, run["state"], *flags, seconds, run.get("error") or metrics])
    return "\n".join(aligned(rows))


def shown(run: Record) -> dict[str, Any]:
    """All that is told of one run."""
    fits = {
        name: {"epochs": len(fit["epoch"]), "steps": max(map(len, fit["steps"].values()), default=0), **_last(fit["history"])}
        for name, fit in run.fits().items()
    }
    return {
        "run": str(run.path),
        "state": run.state,
        "seconds": run.seconds(),
        "error": run.status.get("error"),
        "flags": run.flags,
        "environment": run.environment,
        "fits": fits,
        "result": run.result,
    }


def compared(one: Record, other: Record) -> dict[str, Any]:
    """What differs between two runs.

    Returns:
      "identical": whether all bits that both recorded are the same, and both got equally far: curves, variables, History and
      result; "flags" and "surroundings" (versions, machine, commit, and what was trained on which data) that differ, each with
      the two values; "metrics" of both; "first": where fits and result differ, in words and as step, epoch and variable.
    """
    names = _names(one.path, other.path)
    fits, others = one.fits(), other.fits()
    found = [in_fit(name, fits.get(name), others.get(name), names) for name in {**fits, **others}]
    found.append(in_result(dict(leaves(one.result)), dict(leaves(other.result)), names))
    metrics = one.metrics(), other.metrics()
    return {
        "runs": (str(one.path), str(other.path)),
        "states": (one.state, other.state),
        "identical": not any(found),
        "flags": _pairs(one.flags, other.flags),
        "surroundings": _pairs(one.surroundings(), other.surroundings()),
        "metrics": {name: (metrics[0].get(name), metrics[1].get(name)) for name in {**metrics[0], **metrics[1]}},
        "first": [_as_json(each) for each in found if each is not None],
    }


def in_words(found: Mapping[str, Any]) -> str:
    """`compared`, to be read."""
    rows = [["", *_names(*map(Path, found["runs"]))], ["state", *found["states"]]]
    rows += [[f"--{name}", *map(_word, pair)] for name, pair in found["flags"].items()]
    rows += [[name, *map(_word, pair)] for name, pair in found["surroundings"].items()]
    rows += [[name, *map(_word, pair)] for name, pair in found["metrics"].items()]
    lines = [*aligned(rows), *(f"{each['place']}: {each['says']}" for each in found["first"])]
    return "\n".join([*lines, "identical" if found["identical"] else "not identical"])


def _names(one: Path, other: Path) -> Names:
    """What the two are called: their paths from where they part."""
    start = os.path.commonpath([one.absolute(), other.absolute()])
    return os.path.relpath(one, start), os.path.relpath(other, start)


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, with both values; None where one has none."""
    both = {**one, **other}
    return {name: (one.get(name), other.get(name)) for name in both if not same(one.get(name), other.get(name))}


def _last(history: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {name: values[-1] for name, values in history.items() if values}


def _as_json(each: Difference) -> dict[str, Any]:
    return {"place": each.place, "step": each.step, "epoch": each.epoch, "variable": each.variable, "says": each.says}


def _word(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _run_in(path: str) -> Record:
    if not records.is_run(Path(path)):
        raise NoRunError(f"{path} is not the directory of a run: it holds no flags.txt")
    return records.read(Path(path))


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="as JSON")
    epilog = "python -m fitcore.runs show RUN; python -m fitcore.runs compare RUN OTHER"
    parser = argparse.ArgumentParser(
        prog="python -m fitcore.runs", description=__doc__.split("\n", 1)[0], epilog=epilog, parents=[common]
    )
    words = [word for word in given if not word.startswith("-")]
    command = words[0] if words and words[0] in ("show", "compare") else "list"
    if command == "list":
        parser.add_argument("paths", metavar="DIR", nargs="?", default="runs", help="default: runs")
    else:
        parser.add_argument("command")
        parser.add_argument("paths", metavar="RUN", nargs=1 if command == "show" else 2)
    options = parser.parse_args(given)
    try:
        if command == "list":
            runs = listed(Path(options.paths))
            print(json.dumps(runs, indent=1) if options.json else table(runs, Path(options.paths)))
        elif command == "show":
            print(json.dumps(shown(_run_in(options.paths[0])), indent=1))
        else:
            found = compared(*map(_run_in, options.paths))
            print(json.dumps(found, indent=1) if options.json else in_words(found))
            return IDENTICAL if found["identical"] else DIFFERS
    except NoRunError as error:
        print(f"runs: {error}", file=sys.stderr)
        return WRONG
    except BrokenPipeError:  # | head
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
