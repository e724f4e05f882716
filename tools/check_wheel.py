"""Build the distribution, install it somewhere else and see that what a user gets is whole.

    python tools/check_wheel.py

The new environment gets the wheel's dependencies and no torch. The sdist is built from the checkout and the
wheel from the sdist, as for a release.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

__all__ = ["ROOT", "Wrong", "build", "catalog_files", "check_installed", "check_sdist", "check_wheel"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "transcode"
DISTRIBUTION = "tensor_transcode"


class Wrong(Exception):
    """The distribution is not what it should be."""


def expect(condition: bool, what: str) -> None:
    """Raise ``Wrong`` unless the condition holds; an assert would vanish under ``-O``."""
    if not condition:
        raise Wrong(what)


def build(out: Path) -> tuple[Path, Path]:
    """Build sdist and wheel into a folder with the build backend of this environment; returns their paths."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    expect(done.returncode == 0, f"build failed:\n{done.stdout}{done.stderr}")
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def catalog_files() -> dict[str, bytes]:
    """The files of ``formats/`` in the checkout, by path relative to it."""
    folder = ROOT / "formats"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _modules() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.py")}


def check_sdist(path: Path) -> None:
    """The source archive holds what building and licensing need, and no tests or tools."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = _modules() | {f"formats/{name}" for name in catalog_files()}
    needed |= {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
    expect(needed <= names, f"{path.name} lacks {sorted(needed - names)}")
    extra = {name.partition("/")[0] for name in names} & {"tests", "tools", "fixtures", ".ci"}
    expect(not extra, f"{path.name} holds {sorted(extra)}")


def check_wheel(path: Path) -> None:
    """The wheel holds one top-level package, all its modules, and the catalog byte by byte."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    tops = {name.partition("/")[0] for name in files}
    info = {top for top in tops if top.startswith(f"{DISTRIBUTION}-") and top.endswith(".dist-info")}
    expect(len(info) == 1 and tops - info == {PACKAGE}, f"{path.name} has the top levels {sorted(tops)}")
    lacks = (_modules() | {f"{PACKAGE}/py.typed"}) - set(files)
    expect(not lacks, f"{path.name} lacks {sorted(lacks)}")
    bundled = f"{PACKAGE}/_formats/"
    found = {name.removeprefix(bundled): data for name, data in files.items() if name.startswith(bundled)}
    wanted = catalog_files()
    expect(bool(wanted), "formats/ is empty")
    different = {name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)}
    expect(not different, f"{path.name}: {bundled} differs from formats/ in {sorted(different)}")
    entry = files[f"{info.pop()}/entry_points.txt"].decode()
    expect("transcode = transcode.__main__:main" in entry, f"{path.name} has the entry points {entry!r}")


def check_installed(python: Path, command: list[str], where: Path, path: str | None = None) -> None:
    """What is installed for ``python`` imports, starts and finds its catalog; run in folder ``where``.

    Args:
        command: how the ``transcode`` command is started there.
        path: PYTHONPATH, when the installation is a plain folder.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRANSCODE_FORMATS")}
    if path is not None:
        environment["PYTHONPATH"] = path

    def run(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=where, env=environment, capture_output=True, text=True)
        expect(done.returncode == 0, f"{' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    home = Path(run(str(python), "-c", "import transcode; print(transcode.__file__)").strip())
    expect(ROOT not in home.parents, f"{home} is the checkout, not the installation")
    expect("run" in run(*command, "--help"), "transcode --help does not tell of run")
    version = run(str(python), "-c", "import transcode; print(transcode.__version__)").strip()
    expect(version in run(*command, "--version"), f"transcode --version does not tell {version}")
    expect("wan_dit" in run(*command, "families"), "transcode families does not list wan_dit")
    converted = where / "converted.safetensors"
    run(*command, "run", str(ROOT / "fixtures" / "wan_tiny"), str(converted), "--scheme", "int8")
    expect(
        "blocks.0.ffn.0.weight_scale" in run(*command, "inspect", "--json", str(converted)), "no scale made"
    )


def main() -> int:
    """Build, look into both archives, install into a new environment, try it there; returns the exit code."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        try:
            sdist, wheel = build(work / "dist")
            check_sdist(sdist)
            check_wheel(wheel)
            home = work / "venv"
            venv.create(home, with_pip=True)
            python = home / "bin" / "python"
            subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
            listed = subprocess.run(
                [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
            ).stdout
            expect("\ntorch==" not in listed, "installing the wheel brings torch along")
            site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
            for unwanted in ("formats", "tools", "tests", "fixtures"):
                expect(not (site / unwanted).exists(), f"the wheel installs {unwanted}/ at the top level")
            (work / "elsewhere").mkdir()
            check_installed(python, [str(home / "bin" / "transcode")], work / "elsewhere")
        except Wrong as error:
            print(error)
            return 1
    print(f"{sdist.name} and {wheel.name} are whole; the wheel works without torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
