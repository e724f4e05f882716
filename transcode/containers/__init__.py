"""Formats of weight files: what each is, how it is read, edited and laid out."""
