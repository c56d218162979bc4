"""The command `indexer`; results go to stdout, progress and errors to stderr."""

import gc
import sys

OBJECTS = 50_000
"""New objects after which Python looks for cycles."""


def main() -> None:
    """Run the command line; ends the process with the exit code of indexer.errors."""
    try:
        from indexer.cli.group import indexer
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("indexer: the command line needs click; run: pip install 'nightly-semantic-index[all]'")
    # Tables pass through as many small objects without cycles: looking for some at every 700th took a night's time.
    gc.set_threshold(OBJECTS)
    indexer()
