"""The contract of every table: schemas, row checks, readers."""
