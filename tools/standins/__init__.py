"""Servers of this machine that stand in for those of others, in tests and in attacks."""
