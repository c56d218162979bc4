"""The batch indexer: catalogue and curated queries in, a verified release out."""
