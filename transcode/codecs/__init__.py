"""How the bytes of a part are laid out in a file: one codec to a module, and the table of them.

A module is loaded where its codec is met. Nothing here loads numpy before bytes flow.
"""
