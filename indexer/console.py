"""What people read of a process: log lines, tracebacks, pages, without secrets and without control characters."""

import logging
import sys
import traceback
from typing import Any

from indexer.redaction import redact
from indexer.text import escape

LEVELS = ("debug", "info", "warning", "error")
LEVEL_VARIABLE = "INDEXER_LOG_LEVEL"
HELD = ("botocore", "boto3", "urllib3", "s3transfer")
"""Libraries that write whole requests at DEBUG."""

_make_record = logging.getLogRecordFactory()


class SafeRecord(logging.LogRecord):
    """A log record whose text and traceback have no secrets, whichever handler of whichever library prints them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        try:
            message = self.getMessage()
        except (TypeError, ValueError, KeyError):
            # A library whose format does not fit its arguments: they are told apart from the message.
            message = f"{self.msg} {self.args!r}"
        self.msg, self.args = clean(message), None
        if self.exc_info:
            self.exc_text = clean("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))


class ErrorStream(logging.Handler):
    """Writes to whatever stderr is when a record comes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        sys.stderr.write(self.format(record) + "\n")


def start_logging(level: str, *, unsafe: bool = False) -> None:
    """Have all libraries log to stderr from the level on; the talkative ones from INFO on unless `unsafe`."""
    logging.setLogRecordFactory(SafeRecord)
    root = logging.getLogger()
    if not any(isinstance(handler, ErrorStream) for handler in root.handlers):
        stream = ErrorStream()
        stream.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(stream)
    root.setLevel(level.upper())
    for name in HELD:
        logging.getLogger(name).setLevel(logging.NOTSET if unsafe else max(logging.INFO, root.level))


def clean(text: str) -> str:
    """Return the text without secrets and with control characters shown instead of sent; lines stay lines."""
    return escape(redact(text), keep="\n\t")


def show_text(value: Any) -> Any:
    """Return plain text clean, and anything else, markup among it, as it is: what pages show of each value."""
    return clean(value) if type(value) is str else value


def describe_unexpected(error: BaseException) -> str:
    """Return the sentence about an error that nobody raised on purpose, clean."""
    return f"unexpected {type(error).__name__}: {clean(str(error))}; please report it"


def describe_traceback(error: BaseException) -> str:
    """Return the traceback of an error, clean."""
    return clean("".join(traceback.format_exception(error))).rstrip("\n")
