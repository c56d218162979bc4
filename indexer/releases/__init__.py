"""Releases after they are published: what there is, what goes live again, what is kept, and what is deleted."""
