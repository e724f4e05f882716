"""Carrying out plans: workers, devices, and outputs that appear whole or not at all."""
