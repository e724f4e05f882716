"""The stages of a flow: one to a module, or to a package."""
