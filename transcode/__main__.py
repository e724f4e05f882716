"""``python -m transcode``."""

from .cli import main

main()
