"""What byte strings share at their beginning."""

from transcode.core.prefix import common_prefix


def test_common_prefix() -> None:
    for length in (0, 1, 7, 8, 100):
        same = bytes(range(length))
        for a, b in ((b"", b""), (b"x", b""), (b"x", b"y"), (b"xab", b"yab")):
            assert common_prefix(same + a, same + b) == length
