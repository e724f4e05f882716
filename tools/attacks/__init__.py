"""What :mod:`attack` does to transcode: one kind of attack to a module, over one engine."""
