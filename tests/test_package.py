"""The wheel and the sdist: what is in them, that both install and import, and that a user's mypy reads their types."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

import fitcore

ROOT = Path(__file__).parent.parent


def run(*command: object, folder: Path, status: int = 0) -> str:
    """What a command prints, run where it doesn't find the clone's fitcore."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from it, of a copy of the clone without what git ignores."""
    folder = tmp_path_factory.mktemp("package")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, folder / "clone", ignore=unwanted)
    # In isolation: an environment of setuptools alone shows that building doesn't import TensorFlow.
    run(sys.executable, "-m", "build", "--outdir", folder, folder / "clone", folder=folder)
    return folder


@functools.cache
def install(folder: Path, suffix: str) -> Path:
    """The Python of an environment of its own that has this archive; all that fitcore needs it finds in the tests' own."""
    (archive,) = folder.glob(f"*{suffix}")
    environment = folder / f"environment{suffix}"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=folder)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", archive, folder=folder)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "needed.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return python


@pytest.mark.slow
def test_what_is_in_them(folder: Path) -> None:
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "fitcore").rglob("*.py")} | {
        "fitcore/py.typed",
        "fitcore_terminal.py",
    }
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == package
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    about = {"LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO", "MANIFEST.in", "pyproject.toml", "setup.cfg"}
    assert {name for name in files if not name.startswith("fitcore.egg-info/")} == package | about


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".whl", ".tar.gz"])
def test_it_installs_and_imports(folder: Path, suffix: str) -> None:
    python = install(folder, suffix)
    code = "import fitcore, importlib.metadata as m; print(fitcore.__version__, m.version('fitcore'), fitcore.__file__)"
    version, metadata, file = run(python, "-c", code, folder=python.parent).split()
    assert version == metadata == fitcore.__version__
    assert Path(file).is_relative_to(python.parent.parent)


# A user's module, and beside it what mypy is to say of a line: the type it reveals, or an error's code.
USER = """
import fitcore


class StopAtLoss(fitcore.Hook):
    when = fitcore.every(50)
    record = ("step/loss",)

    def after_steps(self, view: fitcore.View) -> fitcore.Stop | None:
        reveal_type(view.step)  # int
        mean = float(view.records["step/loss"].mean())
        return fitcore.Stop(f"{mean:.3f}") if mean < 0.05 else None


class Wrong(fitcore.Hook):
    def after_steps(self, view: int) -> None: ...  # override


def train(model: object, x: object) -> None:
    noise = fitcore.GradientNoise(estimator="split", splits=2)
    reveal_type(noise.examples)  # int | None
    reveal_type(fitcore.every(3))  # fitcore.hooks.protocol.When
    reveal_type(fitcore.__version__)  # str
    history = fitcore.fit(model, x, epochs=2, hooks=[StopAtLoss()], noise=noise)
    print(history.steps["step/loss"])
    fitcore.fit()  # call-arg
    fitcore.fit(model, x, epochs="two")  # arg-type
    fitcore.Stop()  # call-arg
    fitcore.GradientNoise(splits="two")  # arg-type
"""


@pytest.mark.slow
def test_a_user_s_mypy_reads_its_types(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "public.py").write_text("import fitcore\n" + "".join(f"reveal_type(fitcore.{n})\n" for n in fitcore.__all__))
    python = install(folder, ".whl")
    command = (sys.executable, "-m", "mypy", "--strict", "--cache-dir=cache", f"--python-executable={python}", ".")
    says = run(*command, folder=tmp_path, status=1)
    found = re.findall(r'^(.*)\.py:(\d+): (?:note: Revealed type is "(.*)"|error: .*\[(.*)\])$', says, re.MULTILINE)
    of_user = {int(line): type_ or code for file, line, type_, code in found if file == "user"}
    lines = enumerate(USER.splitlines(), 1)
    assert of_user == {i: line.partition("  # ")[2] for i, line in lines if "  # " in line}, says
    of_public = [type_ for file, _, type_, _ in found if file == "public"]
    assert len(of_public) == len(fitcore.__all__)
    assert "" not in of_public  # an error: not in the package
    assert "Any" not in of_public


def test_the_changelog_has_this_version() -> None:
    latest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest is not None
    assert latest[1] == Version(fitcore.__version__).base_version
