"""The group of all commands; a command's module imports torch, Spark or faiss only when it runs."""

import click

from indexer import __version__
from indexer.cli.build import build
from indexer.cli.compare import compare
from indexer.cli.config import config
from indexer.cli.demo import demo
from indexer.cli.distill import distill
from indexer.cli.doctor import doctor
from indexer.cli.evaluate import evaluate
from indexer.cli.export import export
from indexer.cli.label import label
from indexer.cli.nightly import nightly
from indexer.cli.options import ErrorGroup, log_options
from indexer.cli.query import query
from indexer.cli.release import release
from indexer.console import start_logging


@click.group(cls=ErrorGroup, context_settings={"show_default": True})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@log_options
@click.version_option(__version__, package_name="nightly-semantic-index")
def indexer(debug: bool, log_level: str, unsafe_debug: bool) -> None:
    """Nightly batch job and embedding index builder behind e-commerce semantic search.

    \b
    Exit codes: 0 done or nothing to do, 1 unexpected, 2 usage or configuration,
    3 input contract, 4 quality gate, 5 publish conflict, 6 integrity,
    75 storage or network (try again).
    """
    start_logging(log_level, unsafe=unsafe_debug)


for command in (demo, doctor, nightly, distill, build, query, release, export, evaluate, compare, label, config):
    indexer.add_command(command)
