"""The command `indexer`; results go to stdout, progress and errors to stderr."""

import sys


def main() -> None:
    """Run the command line; ends the process with the exit code of indexer.errors."""
    try:
        from indexer.cli.group import indexer
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("indexer: the command line needs click; run: pip install 'nightly-semantic-index[all]'")
    indexer()
