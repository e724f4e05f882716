"""Memory does not grow with the model: true layer shapes of Flux, one block and three."""

import subprocess
import sys
from pathlib import Path

import make_svdquant
import pytest

MAIN = """
import sys
from transcode.cli import main
try:
    main(sys.argv[1:])
finally:
    for line in open("/proc/self/status"):
        if line.startswith(("VmHWM", "RssAnon")):
            print(line.strip(), file=sys.stderr)
"""


def peak(folder: Path, *args: object) -> int:
    """Largest resident set of a conversion, file pages included, in MiB."""
    words = [
        "nunchaku",
        "convert",
        "--quant-path",
        folder,
        "--output-root",
        folder / "out",
        "--model-name",
        "flux",
    ]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, (*words, *args))], capture_output=True, text=True, check=True
    )
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_true_shapes_in_bounded_memory(tmp_path: Path) -> None:
    peaks, sizes = {}, {}
    for blocks in (1, 3):
        folder = tmp_path / str(blocks)
        make_svdquant.save(folder, make_svdquant.make(0, blocks))
        sizes[blocks] = (folder / "model.pt").stat().st_size >> 20
        assert sizes[blocks] > blocks * 260
        if blocks == 1:
            peak(folder, "--workers", 1)  # compiles kernels, which takes memory of its own
        peaks[blocks] = peak(folder, "--workers", 2, "--memory", "64MB", "--force")
        (folder / "model.pt").unlink()
    # Peaks of one command differ by some 30 MiB: which pages are mapped at once is up to the threads. What is
    # held of every block would show as hundreds.
    assert peaks[3] - peaks[1] < (sizes[3] - sizes[1]) / 5, (peaks, sizes)
    assert peaks[3] < 400, peaks
