"""Nightly batch job and embedding index builder behind e-commerce semantic search."""

__version__ = "0.1.0"
