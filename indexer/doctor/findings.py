"""What was looked at, in one line each, and the exit code that they add up to."""

from collections.abc import Iterable
from dataclasses import dataclass

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: str
    found: str
    advice: str = ""
    """What to do; nothing where all is well."""
    exit_code: int = 0
    """That of a command which meets this; 0 unless it failed."""


def passed(subject: str, found: str) -> Finding:
    """Return what is as it should be."""
    return Finding(subject=subject, state=OK, found=found)


def warned(subject: str, found: str, advice: str) -> Finding:
    """Return what a night can live with."""
    return Finding(subject=subject, state=WARNING, found=found, advice=advice)


def failed(subject: str, found: str, advice: str, exit_code: int) -> Finding:
    """Return what keeps a night from its end."""
    return Finding(subject=subject, state=FAILED, found=found, advice=advice, exit_code=exit_code)


def sum_up(findings: Iterable[Finding]) -> int:
    """Return one exit code: 0 where nothing failed, else the one for which another try helps least."""
    return min((item.exit_code for item in findings if item.state == FAILED), default=0)
