"""Options that several commands share, and the one place where an error becomes an exit code."""

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from indexer.config import Config
from indexer.config_file import load_config
from indexer.errors import ConfigError, IndexerError
from indexer.text import escape

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(command: Command) -> Command:
    """Add --config and --set."""
    command = click.option(
        "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one key; may be repeated."
    )(command)
    return click.option("--config", "config_path", metavar="FILE", help="The shop's TOML file.")(command)


def date_options(command: Command) -> Command:
    """Add --run-date and --no-progress."""
    command = click.option("--no-progress", is_flag=True, help="No progress bars.")(command)
    return click.option("--run-date", required=True, metavar="YYYY-MM-DD", help="The night's date.")(command)


def force_option(command: Command) -> Command:
    """Add --force."""
    return click.option("--force", is_flag=True, help="Run again although nothing changed.")(command)


def json_option(command: Command) -> Command:
    """Add --json: exactly one document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def open_config(config_path: str | None, settings: tuple[str, ...]) -> Config:
    """Load the configuration by the precedence option, environment, file, default."""
    return load_config(config_path, options=settings)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def show_progress(no_progress: bool) -> bool:
    """Tell whether bars make sense: wanted, and a terminal to draw them on."""
    return not no_progress and sys.stderr.isatty()


class ErrorGroup(click.Group):
    """A group whose commands end with the exit code of the error they raise."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; print an IndexerError, or a package that is not installed, as one sentence."""
        try:
            return super().invoke(context)
        except IndexerError as error:
            if context.params.get("debug"):
                raise
            click.echo(f"indexer: {escape(str(error))}", err=True)
            context.exit(error.exit_code)
        except ModuleNotFoundError as error:
            if context.params.get("debug") or error.name is None or error.name.startswith("indexer"):
                raise
            click.echo(
                f"indexer: this command needs the package {error.name}; run: pip install 'nightly-semantic-index[all]'",
                err=True,
            )
            context.exit(ConfigError.exit_code)
