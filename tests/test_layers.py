"""The import layers hold, the check that says so can fail, and starting is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import check_layers
import pytest

PACKAGE = Path(__file__).parent.parent / "transcode"


def tree(folder: Path, **sources: str) -> Path:
    """A package ``transcode`` of the given modules; ``a__b`` is ``a/b.py``."""
    root = folder / "transcode"
    root.mkdir()
    (root / "__init__.py").write_text("")
    for name, source in sources.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in path.parents[: len(path.relative_to(root).parts) - 1]:
            (package / "__init__.py").touch()
        path.write_text(source)
    return root


def test_the_package_keeps_its_layers():
    assert len(check_layers.modules(PACKAGE)) > 15
    assert check_layers.check(PACKAGE) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"core__spec": "from ..errors import X", "errors": ""},
        {
            "core__spec": "from .dtypes import X",
            "core__dtypes": "",
            "numerics__widen": "from ..core import spec",
        },
        {
            "api": "from .stages import cast",
            "stages__cast": "from ..schemes.int8 import X",
            "schemes__int8": "",
        },
        {
            "cli__main": "import click, rich.table\nfrom .. import __version__\nfrom ..recipe import X",
            "recipe": "",
        },
        {
            "io__map": "import mmap\nfrom fcntl import flock",
            "containers__torch__pickle": "def f():\n    import torch",
        },
        {"numerics__kernels": "import numba"},
        {
            "core__t": "import typing as t\nif t.TYPE_CHECKING:\n    import torch\n    from .s import S",
            "core__s": "",
        },
        {"numerics__gpu__kernels": "import torch"},
        {"api": "from .recipe import X", "recipe": ""},
    ],
)
def test_legal(tmp_path, sources):
    assert check_layers.check(tree(tmp_path, **sources)) == []


@pytest.mark.parametrize(
    ("sources", "where", "what"),
    [
        (
            {"errors": "import transcode.core.spec", "core__spec": ""},
            "errors.py:1",
            "transcode.core.spec, which lies",
        ),
        (
            {"core__spec": "from ..execution.staging import X", "execution__staging": ""},
            "spec.py:1",
            "core imports",
        ),
        (
            {"core__spec": "from ..execution import staging", "execution__staging": ""},
            "spec.py:1",
            "transcode.execution.staging",
        ),
        ({"core__spec": "\ndef f():\n    from ..api import open", "api": ""}, "spec.py:3", "transcode.api"),
        ({"core__spec": "from ..numerics import X", "numerics__x": ""}, "spec.py:1", "transcode.numerics"),
        (
            {"schemes__a": "from transcode.stages.b import X", "stages__b": ""},
            "a.py:1",
            "schemes imports",
        ),
        (
            {"schemes__a": "import typing\nif typing.TYPE_CHECKING:\n    from ..api import X", "api": ""},
            "a.py:3",
            "transcode.api",
        ),
        ({"recipe": "from .cli import main", "cli__main": ""}, "recipe.py:1", "transcode.cli"),
        ({"core__spec": "from .. import open"}, "spec.py:1", "takes open from transcode itself"),
        ({"core__spec": "import transcode"}, "spec.py:1", "takes everything from transcode itself"),
        ({"misc": ""}, "misc.py:1", "misc is in no layer"),
        (
            {
                "schemes__a": "from ..catalog.b import X",
                "catalog__b": "def f():\n    from ..schemes.a import Y",
            },
            "transcode",
            "in a circle: ",
        ),
        (
            {"core__a": "from .b import X", "core__b": "from . import c", "core__c": "from .a import Y"},
            ".py:1",
            "modules load each other in a circle: ",
        ),
        (
            {"containers__a": "from .b import X", "containers__b": "def f():\n    from .a import Y"},
            ".py:1",
            "modules need each other in a circle: ",
        ),
        (
            {"stages__a": "from .b import X", "stages__b": "def f():\n    from .a import Y"},
            ".py:1",
            "modules need each other in a circle: ",
        ),
        (
            {
                "core__t": "import typing as t\nif t.TYPE_CHECKING:\n    from .s import S",
                "core__s": "from .t import T",
            },
            ".py:1",
            "modules need each other in a circle: ",
        ),
        (
            {
                "io__a": "from .b import X",
                "io__b": "import typing\nif typing.TYPE_CHECKING:\n    from . import a",
            },
            ".py:1",
            "modules need each other in a circle: ",
        ),
        (
            {"containers__x": "from ..execution import y", "execution__y": ""},
            "x.py:1",
            "transcode.execution.y, which lies",
        ),
        ({"api": "import click"}, "api.py:1", "imports click: only cli may"),
        ({"execution__a": "def f():\n    import rich"}, "a.py:2", "imports rich: only cli may"),
        ({"schemes__a": "from numba import njit"}, "a.py:1", "imports numba: only numerics may"),
        ({"core__a": "import mmap"}, "a.py:1", "imports mmap: only io may"),
        ({"execution__a": "import safetensors.torch"}, "a.py:1", "imports safetensors: the package must not"),
        ({"execution__a": "import torch"}, "a.py:1", "loads torch with the module"),
        ({"execution__a": "class A:\n    import torch.nn"}, "a.py:2", "loads torch with the module"),
        ({"numerics__gpus": "import torch"}, "gpus.py:1", "loads torch with the module"),
    ],
)
def test_violation(tmp_path, sources, where, what):
    (line,) = check_layers.check(tree(tmp_path, **sources))
    assert where in line
    assert what in line


def test_the_command(tmp_path, capsys):
    assert check_layers.main([str(PACKAGE)]) == 0
    assert capsys.readouterr().out.endswith(" 0 violations\n")
    assert check_layers.main([str(tree(tmp_path, core__a="import mmap"))]) == 1
    assert "a.py:1: imports mmap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["-c", "import transcode"], {"torch", "numba", "rich", "click"}),
        (["-m", "transcode", "--help"], {"torch", "numba", "rich"}),
        (["-m", "transcode", "inspect", "fixtures/wan_tiny", "--json"], {"torch", "numba", "rich", "numpy"}),
        (["-m", "transcode", "meta", "--help"], {"torch", "numba", "rich", "numpy"}),
    ],
)
def test_start_up_loads_nothing_heavy(arguments, heavy):
    # -X importtime tells every module that was loaded, whatever the command does at its end.
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    loaded = {
        line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert done.returncode == 0, done.stderr
    assert "transcode" in loaded
    assert not loaded & heavy
