"""What consumers of checkpoints ask for and leave behind: names of parts, markers, records, settings."""
