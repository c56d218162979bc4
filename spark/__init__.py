"""Functions from DataFrame to DataFrame; only tables.py touches storage."""
