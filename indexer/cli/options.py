"""Options that several commands share, and the one place where an error becomes an exit code."""

import json
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO, TypeVar

import click

from indexer.config import Config
from indexer.config_file import load_config
from indexer.console import LEVEL_VARIABLE, LEVELS, clean, describe_traceback, describe_unexpected
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


def single_writer_option(command: Command) -> Command:
    """Add --single-writer, for commands that write to a store and read no configuration."""
    return click.option(
        "--single-writer",
        is_flag=True,
        envvar="INDEXER_SHOP_SINGLE_WRITER",
        help="The bucket creates no object once; no other process writes to it (shop.single_writer).",
    )(command)


def log_options(command: Command) -> Command:
    """Add --log-level and --unsafe-debug."""
    command = click.option(
        "--unsafe-debug", is_flag=True, help="With --log-level debug: also the requests that are sent to storage."
    )(command)
    return click.option(
        "--log-level",
        type=click.Choice(LEVELS, case_sensitive=False),
        default="warning",
        envvar=LEVEL_VARIABLE,
        show_envvar=True,
        help="What libraries log to stderr; secrets are hidden at every level.",
    )(command)


def public_key_option(command: Command) -> Command:
    """Add --public-key."""
    meaning = "Trust only what one of this PEM file's keys signed."
    return click.option("--public-key", metavar="FILE", help=meaning)(command)


def signing_options(command: Command) -> Command:
    """Add --signing-key and --public-key, for commands that add to a log and read no configuration."""
    meaning = (
        "Trust what one of this PEM file's keys signed (shop.public_keys); by default the signing key's own alone."
    )
    command = click.option(
        "--public-key", default="", metavar="FILE", envvar="INDEXER_SHOP_PUBLIC_KEYS", show_envvar=True, help=meaning
    )(command)
    meaning = "Sign the log entry with this PEM key (shop.signing_key)."
    return click.option(
        "--signing-key", default="", metavar="FILE", envvar="INDEXER_SHOP_SIGNING_KEY", show_envvar=True, help=meaning
    )(command)


def open_config(config_path: str | None, settings: tuple[str, ...]) -> Config:
    """Load the configuration by the precedence option, environment, file, default."""
    return load_config(config_path, options=settings)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout; characters that could steer a terminal stand in it as JSON's own escapes."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    click.echo("".join(c if c.isprintable() or c == "\n" else _escape_json(c) for c in text))


def _escape_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def show_progress(no_progress: bool) -> bool:
    """Tell whether bars make sense: wanted, and a terminal to draw them on."""
    return not no_progress and sys.stderr.isatty()


class SafeCommand(click.Command):
    """A command whose usage errors, which quote what was typed or stood in the environment, have no secrets."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line; raises UsageError."""
        with _clean_usage():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run the command, or parse and run one below it; raises UsageError."""
        with _clean_usage():
            return super().invoke(context)


class ErrorGroup(SafeCommand, click.Group):
    """A group whose commands end with the exit code of the error they raise."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; print an error of any kind as one sentence, with its traceback where it is wanted or new."""
        debug = bool(context.params.get("debug"))
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.Abort, click.UsageError):
            raise
        except BrokenPipeError as error:
            if _is_read(sys.stdout):
                _end(context, error, describe_unexpected(error), IndexerError.exit_code, traced=True)
            # Whoever read, `head` for one, has seen enough; click ends quietly.
            raise
        except IndexerError as error:
            _end(context, error, escape(str(error)), error.exit_code, traced=debug)
        except ModuleNotFoundError as error:
            known = _is_foreign(error)
            needs = f"this command needs the package {error.name}; run: pip install 'nightly-semantic-index[all]'"
            _end(
                context, error, needs if known else clean(str(error)), find_exit_code(error), traced=debug or not known
            )
        except Exception as error:
            _end(context, error, describe_unexpected(error), IndexerError.exit_code, traced=True)


def find_exit_code(error: BaseException) -> int:
    """Return what a command ends with that an error ended: 2 where a package is not installed, 1 for the unexpected."""
    if isinstance(error, ModuleNotFoundError) and _is_foreign(error):
        return ConfigError.exit_code
    return error.exit_code if isinstance(error, IndexerError) else IndexerError.exit_code


def _is_foreign(error: ModuleNotFoundError) -> bool:
    return error.name is not None and not error.name.startswith("indexer")


@contextmanager
def _clean_usage() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        # Its message is the help, which it shows without more.
        raise
    except click.UsageError as error:
        raise click.UsageError(clean(error.format_message()), error.ctx) from None


def _is_read(stream: TextIO) -> bool:
    """Tell whether somebody still reads what is printed."""
    ends = select.poll()
    try:
        ends.register(stream, 0)
    # There is no stream, it was closed, or nothing of the system is behind it.
    except (TypeError, ValueError):
        return True
    return not ends.poll(0)


def _end(context: click.Context, error: Exception, sentence: str, exit_code: int, *, traced: bool) -> NoReturn:
    if traced:
        click.echo(describe_traceback(error), err=True)
    click.echo(f"indexer: {sentence}", err=True)
    context.exit(exit_code)
