"""The store: what a release relies on, tried out below a prefix of its own, which is emptied again.

A folder is tried by the same calls as a bucket; checksums, credentials and unfinished uploads are a bucket's alone.
"""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from indexer.creation import RACERS, race_creates
from indexer.doctor.bucket import BUCKET_CHECKS, open_client
from indexer.doctor.findings import FAILED, Finding, failed, passed, warned
from indexer.errors import (
    ConfigError,
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    StoreUnsupportedError,
)
from indexer.store import LocalStore, S3Store, Store, hash_file, open_store
from indexer.store.s3 import PART_BYTES

ROUNDS = 10
LISTED = 7
LARGE_BYTES = 2 * PART_BYTES + 1
BROKEN = IntegrityError.exit_code
ATOMIC, SINGLE_WRITER = "atomic", "single-writer"
PROBES = "probe"


class Probe(NamedTuple):
    """Where the checks write."""

    store: Store
    prefix: str

    def key(self, name: str) -> str:
        """Return a key below the prefix."""
        return f"{self.prefix}{name}"


def examine_store(url: str, *, single_writer: bool = False, rounds: int = ROUNDS) -> Iterator[Finding]:
    """Try out a store, one finding each; what was written is removed again, however it ends.

    `single_writer` says that the shop has set it; the bucket is tried without. Raises ConfigError for an address that
    is none.
    """
    probe = Probe(open_store(url), f"{PROBES}/{uuid.uuid4().hex}/")
    try:
        reached = _observe("reach", probe, _check_reach)
        yield reached
        if reached.state == FAILED:
            return
        create = _observe("create", probe, _check_create)
        race = _observe("race", probe, lambda probe: _check_race(probe, rounds))
        yield from (create, race)
        yield _judge_publishing(create, race, single_writer=single_writer)
        if "warning" in (create.state, race.state):
            # As such a store has to be published to.
            probe = probe._replace(store=open_store(url, single_writer=True))
        reads = _observe("read after write", probe, _check_reads)
        yield reads
        for subject, check in (("list", _check_list), ("list after delete", _check_delete)):
            if reads.state == FAILED:
                yield failed(subject, "not tried, since what it needs was not written", "see above", reads.exit_code)
            else:
                yield _observe(subject, probe, check)
        yield _observe("large object", probe, _check_large)
        if isinstance(probe.store, S3Store):
            client = open_client()
            for subject, look in BUCKET_CHECKS.items():
                yield _observe(subject, probe, lambda _, look=look: look(client, probe.store, probe.prefix))  # type: ignore[misc]
    finally:
        left = _clean_up(probe)
    yield left


def _observe(subject: str, probe: Probe, check: Callable[[Probe], Finding]) -> Finding:
    """Run a check; storage that fails, or answers what no store should, is a finding."""
    try:
        finding = check(probe)
    except StoreError as error:
        return failed(subject, str(error), "see the message", error.exit_code)
    except OSError as error:
        found = f"the folder for temporary files: {error.strerror or error}"
        return failed(subject, found, "free some, or set TMPDIR to another", StoreError.exit_code)
    return Finding(**{**finding.__dict__, "subject": subject})


def _check_reach(probe: Probe) -> Finding:
    if found := [item.key for item in probe.store.list(probe.prefix)]:
        return failed("", f"an unused prefix holds {found[0]}", "this is no store", BROKEN)
    return passed("", probe.store.url)


def _check_create(probe: Probe) -> Finding:
    """Create an object twice, one after the other."""
    key = probe.key("create")
    try:
        probe.store.put_new(key, b"first")
    except StoreUnsupportedError as error:
        if not isinstance(probe.store, S3Store):
            raise
        return warned("", f"a create with a condition is unknown: {error}", _ONE_WRITER)
    try:
        probe.store.put_new(key, b"second")
    except ObjectExistsError:
        if probe.store.get(key) == b"first":
            return passed("", "a second create of a key is refused and changes nothing")
        return failed("", "a second create was refused, but it replaced the object", _NO_STORE, BROKEN)
    return warned("", "a second create of a key is accepted", _ONE_WRITER)


def _check_race(probe: Probe, rounds: int) -> Finding:
    """Let writers create one key at once, several times."""
    try:
        several = sum(_race(probe, probe.key(f"race-{number}")) > 1 for number in range(rounds))
    except StoreUnsupportedError as error:
        if not isinstance(probe.store, S3Store):
            raise
        return warned("", f"a create with a condition is unknown: {error}", _ONE_WRITER)
    if several:
        return warned("", f"{RACERS} creates at once had several winners in {several} of {rounds} rounds", _ONE_WRITER)
    return passed("", f"{RACERS} creates at once had one winner in each of {rounds} rounds")


def _race(probe: Probe, key: str) -> int:
    """Return how many were told that they created the key; raises StoreError where nobody was."""
    outcomes = race_creates(probe.store, key)
    winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
    problem = next((error for error in outcomes if error and not isinstance(error, ObjectExistsError)), None)
    if not winners and problem:
        raise problem
    kept = probe.store.get(key)
    # Another's bytes in place of the one winner's: it has won as well, whatever it was told.
    return len(winners) if kept in {str(number).encode() for number in winners} else len(winners) + 1


def _judge_publishing(create: Finding, race: Finding, *, single_writer: bool) -> Finding:
    """Say what the two checks mean for publishers."""
    codes = [item.exit_code for item in (create, race) if item.state == FAILED]
    if codes:
        return failed("publishing", "not safe here", "see above", min(codes))
    if create.state == race.state == "ok":
        if single_writer:
            return warned("publishing", f"{ATOMIC}, but shop.single_writer is set", "leave it out for this store")
        return passed("publishing", f"{ATOMIC}: of several publishers one wins, the others are told")
    if single_writer:
        return warned("publishing", f"{SINGLE_WRITER}, as shop.single_writer says", "never run two publishers at once")
    return failed("publishing", SINGLE_WRITER, _ONE_WRITER, ConfigError.exit_code)


def _check_reads(probe: Probe) -> Finding:
    """Read, measure and list objects right after they were written."""
    for number in range(LISTED):
        key, data = probe.key(f"read/{number}"), f"object {number}".encode()
        probe.store.put_new(key, data)
        try:
            if probe.store.get(key) != data or probe.store.size(key) != len(data):
                return failed("", "other bytes came back than were written", _NO_STORE, BROKEN)
        except ObjectMissingError:
            return failed("", "an object cannot be read right after it was written", _NO_STORE, BROKEN)
        if key not in [item.key for item in probe.store.list(probe.key("read/"))]:
            return failed("", "an object is not listed right after it was written", _NO_STORE, BROKEN)
    return passed("", f"{LISTED} of {LISTED} objects were read and listed at once")


def _check_list(probe: Probe) -> Finding:
    """Compare a listing with what was written by the check before."""
    expected = [probe.key(f"read/{number}") for number in range(LISTED)]
    found = [item.key for item in probe.store.list(probe.key("read/"))]
    if found == expected:
        return passed("", f"{LISTED} keys in order")
    if sorted(found) == expected:
        return failed("", "keys are not listed in order", _NO_STORE, BROKEN)
    return failed("", f"{len(found)} keys are listed where {LISTED} were written", _NO_STORE, BROKEN)


def _check_delete(probe: Probe) -> Finding:
    """Delete an object, and look for it."""
    key = probe.key("read/0")
    probe.store.delete(key)
    if key in [item.key for item in probe.store.list(probe.key("read/"))]:
        return failed("", "a deleted object is listed still", _NO_STORE, BROKEN)
    with suppress(ObjectMissingError):
        probe.store.get(key)
        return failed("", "a deleted object is read still", _NO_STORE, BROKEN)
    return passed("", "a deleted object is gone at once")


def _check_large(probe: Probe) -> Finding:
    """Write an object of several parts, and read it again."""
    key = probe.key("large")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        block = bytes(range(251)) * 4_177
        source.write_bytes((block * (LARGE_BYTES // len(block) + 1))[:LARGE_BYTES])
        probe.store.put_file(key, source)
        size = probe.store.size(key)
        probe.store.get_file(key, target)
        if size != LARGE_BYTES or hash_file(source) != hash_file(target):
            return failed("", f"of {LARGE_BYTES} bytes, {size} came back, or others", _NO_STORE, BROKEN)
    return passed("", f"{LARGE_BYTES / 2**20:.0f} MiB came back as they were")


def _clean_up(probe: Probe) -> Finding:
    """Remove everything below the prefix."""
    try:
        keys = [item.key for item in probe.store.list(probe.prefix)]
        for key in keys:
            probe.store.delete(key)
        if isinstance(probe.store, LocalStore):
            probe.store.remove_empty_folders(probe.prefix, datetime.now(UTC) + timedelta(minutes=1))
            # The folder of all probes stays where another one runs beside this.
            with suppress(OSError):
                for folder in (probe.prefix.rstrip("/"), PROBES):
                    (probe.store.root / folder).rmdir()
    except StoreError as error:
        return warned("clean up", str(error), f"remove what lies below {probe.prefix} in {probe.store.url}")
    return passed("clean up", f"{len(keys)} objects of the probe were removed")


_ONE_WRITER = "use another store, or set shop.single_writer = true and never run two publishers at once"
_NO_STORE = "publish to another store: releases would be damaged or missed here"
