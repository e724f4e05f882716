"""From a flow to a plan: every file, header, offset and small file, with no tensor byte read."""
