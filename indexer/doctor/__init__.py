"""What `indexer doctor` looks at before a night does: the machine, and the store."""
