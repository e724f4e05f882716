"""What the squared error of each column counts, where scales are searched: ``--importance``."""
