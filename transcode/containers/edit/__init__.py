"""Changing the metadata of files in place, so that a crash at any moment leaves old or new."""
