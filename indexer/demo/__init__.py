"""A generated shop with known answers."""
