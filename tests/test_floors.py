"""The house stands on its floors: no module imports one above it, none hides an import of another in a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A package stands where its name does; on one floor no module imports another, but within a package
# they may, as long as there is no circle.
FLOORS = [
    ["lstm"],
    ["cluster", "errors", "keras_private", "python_draws", "tracing", "command_line.registry"],
    ["data", "finite", "noise", "reachable"],
    ["aside", "optimizers", "blocks", "convolutions", "normalization", "replicas", "shapes", "keras_steps"],
    ["step", "graph_loop", "onednn", "outside"],
    ["hooks", "parts", "program"],
    ["schedules"],
    ["assembly"],
    ["engine"],
    ["call_limits", "recording", "run", "supported", "signal_to_noise"],
    ["checkpoint", "on_batch"],
    ["remembered"],
    ["plans", "loop", "checking.results"],
    ["arguments"],
    ["description", "distributed_fit", "evaluation"],
    ["validation"],
    ["fitting"],
    ["explain", "patch", "checking"],
    ["command_line"],
    ["__init__"],
    ["__main__", "plot", "runs", "verify"],
]


def floor_of(module: str) -> tuple[int, str]:
    """(its floor, the name that stands there) of `fitcore.MODULE`; the longest name counts."""
    found = [(len(name), i, name) for i, names in enumerate(FLOORS) for name in names if f"{module}.".startswith(f"{name}.")]
    assert found, f"fitcore.{module} has no floor yet: give it one in tests/test_floors.py"
    _, i, name = max(found)
    return i, name


def sources(root: Path) -> dict[str, str]:
    """The source of each module of the package in `root`, by its name there; a package's own is under the package's name."""
    found = {}
    for path in sorted((root / "fitcore").rglob("*.py")):
        name = ".".join(path.relative_to(root / "fitcore").with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path.read_text()
    return found


def imports(source: str, modules: set[str]) -> Iterator[tuple[str, bool]]:
    """(module of fitcore it imports, whether inside a function) for each import in the source."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name == "fitcore" or name.startswith("fitcore."):
                inner = name.removeprefix("fitcore").removeprefix(".")
                while inner and inner not in modules:  # a name in a module
                    inner = inner.rpartition(".")[0]
                yield inner or "__init__", id(node) in inside


def wrong(modules: dict[str, str]) -> list[str]:
    """What is wrong with the imports of these modules, in words."""
    found = []
    for name, source in modules.items():
        floor, room = floor_of(name)
        for imported, hidden in imports(source, set(modules)):
            other_floor, other_room = floor_of(imported)
            if hidden:
                found.append(f"{name} imports {imported} inside a function")
            if other_floor > floor or (other_floor == floor and other_room != room):
                found.append(f"{name} (floor {floor}) imports {imported} (floor {other_floor})")
    return found + circles(modules)


def circles(modules: dict[str, str]) -> list[str]:
    """Circles of imports, each once; a package's own file, which only passes names on, is left out."""
    packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)} | {"__init__"}
    graph = {name: {i for i, _ in imports(source, set(modules))} - packages for name, source in modules.items()}
    done: set[str] = set()
    found = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(f"a circle: {' -> '.join((*path[path.index(name) :], name))}")
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return found


@pytest.fixture(scope="module")
def house() -> dict[str, str]:
    return sources(ROOT)


def test_no_import_points_up(house: dict[str, str]) -> None:
    assert wrong(house) == []
    assert len(house) > 50


@pytest.mark.parametrize(
    ("module", "line", "says"),
    [
        ("engine", "from fitcore.fitting import fit", "engine (floor 8) imports fitting (floor 16)"),
        ("engine", "def f():\n    from fitcore.step import Parts", "engine imports step inside a function"),
        ("run", "import fitcore", "run (floor 9) imports __init__ (floor 19)"),
        ("recording", "from fitcore.run import Run", "recording (floor 9) imports run (floor 9)"),
        (
            "data.order",
            "from fitcore.data.stream import Stream",
            "a circle: data.sources -> data.order -> data.stream -> data.sources",
        ),
        ("data.order", "from fitcore import loop", "data.order (floor 2) imports loop (floor 12)"),
    ],
)
def test_it_would_be_noticed(house: dict[str, str], module: str, line: str, says: str) -> None:
    found = wrong(house | {module: f"{house[module]}\n{line}\n"})
    assert any(says in each for each in found), found
