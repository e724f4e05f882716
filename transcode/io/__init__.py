"""Bytes and names, wherever they lie: read in place, listed, locked, moved. Knows no format."""
