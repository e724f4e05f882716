"""The built distribution is whole, and the checks that say so can fail.

The command ``tools/check_wheel.py``, which CI runs, installs the wheel with dependencies into an environment
of its own. Here, without a network, the wheel is unpacked into a folder and torch is hidden.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile

import check_wheel
import pytest


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return check_wheel.build(tmp_path_factory.mktemp("dist"))


def test_archives(built):
    sdist, wheel = built
    check_wheel.check_sdist(sdist)
    check_wheel.check_wheel(wheel)


def test_it_works_elsewhere_without_torch(built, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        str(built[1]),
    ]
    subprocess.run(command, check=True)
    assert {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")} == {
        "transcode",
        "bin",
    }
    (target / "torch.py").write_text("raise ImportError('hidden')")
    elsewhere.mkdir()
    start = [sys.executable, "-m", "transcode"]
    check_wheel.check_installed(sys.executable, start, elsewhere, path=str(target))


def rewrite(wheel, path, *, drop=None, add=()):
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name != drop:
                new.writestr(name, old.read(name))
        for name, data in add:
            new.writestr(name, data)
    return path


def test_what_would_be_wrong_is_seen(built, tmp_path):
    sdist, wheel = built
    bad = tmp_path / wheel.name
    with pytest.raises(check_wheel.Wrong, match=r"top levels.*formats"):
        check_wheel.check_wheel(rewrite(wheel, bad, add=[("formats/x.yaml", "")]))
    with pytest.raises(check_wheel.Wrong, match=r"lacks.*errors"):
        check_wheel.check_wheel(rewrite(wheel, bad, drop="transcode/errors.py"))
    with pytest.raises(check_wheel.Wrong, match=r"differs.*wan_dit"):
        check_wheel.check_wheel(rewrite(wheel, bad, drop="transcode/_formats/families/wan_dit.yaml"))
    with pytest.raises(check_wheel.Wrong, match=r"differs.*stale"):
        check_wheel.check_wheel(rewrite(wheel, bad, add=[("transcode/_formats/stale.yaml", "")]))
    thin = tmp_path / sdist.name
    with tarfile.open(thin, "w:gz") as archive:
        archive.add(check_wheel.ROOT / "LICENSE", "x/LICENSE")
    with pytest.raises(check_wheel.Wrong, match=r"lacks.*README"):
        check_wheel.check_sdist(thin)
