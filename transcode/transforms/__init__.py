"""The stages of a flow, one in each module."""
