"""What experiments there are, without importing them."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path


def listed() -> dict[str, str]:
    """By the module's name, what each experiment shows: its docstring's first line. Those are the modules that can be run."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        if path.stem != "__main__" and any(isinstance(node, ast.If) and _is_guard(node) for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n", 1)[0]
    return found


def unknown(module: str) -> str | None:
    """Why `python -m MODULE`, something in this package, can't be run, in words; None if there is such a module."""
    name = module.partition(".")[2]
    if not name or Path(__file__).parent.joinpath(*name.split(".")).with_suffix(".py").exists():
        return None
    near = difflib.get_close_matches(name, listed(), 1)
    return f"There is no experiment {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} python -m experiments lists them."


def _is_guard(node: ast.If) -> bool:
    return ast.unparse(node.test) == "__name__ == '__main__'"
