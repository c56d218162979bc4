"""Spark entry points: each reads tables, calls spark/, writes tables."""
