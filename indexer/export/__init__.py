"""Copies of a published release in the formats of other engines."""
