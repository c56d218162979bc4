"""Every fault of a store at every kind of call, through the real commands, boto3 and HTTP.

`python -m tests.proof.faults --full` makes each fault once, twice and always at each kind of call of a command: of a
build, a query, a collection of garbage. The command must end with the right exit code, within a minute, with the old or
the new release live and whole; and the same command, run again without faults, must succeed. Time is counted,
not measured: READ_SECONDS for each answer that is waited for in vain, and the pauses between attempts, which are
skipped.
"""

import argparse
import csv
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from click.testing import CliRunner

from indexer import log
from indexer.cli.group import indexer
from indexer.store import s3 as stores
from tests.proof.s3_faults import FAULTS
from tests.proof.strict_s3 import StrictS3, serve

ENCODER = Path(__file__).resolve().parents[1] / "golden" / "encoder_v1"
NIGHTS = ("2026-11-17", "2026-11-18", "2026-11-19")
TONIGHT = "2026-11-20"
URL = "s3://bucket/shop"
WAIT_SECONDS = 0.5
LONGEST_SECONDS = 60
ALWAYS = 10**6
TIMES = (1, 2, ALWAYS)
SHARE_OF_DEFAULT = 13
"""One of so many cases is run by default."""


@dataclass(frozen=True)
class Call:
    """A kind of request that a fault is made at, and the command that makes it."""

    command: str
    operation: str
    part: str
    """What the key contains."""
    in_parts: bool = False
    """Whether files travel in parts."""

    def chooses(self, operation: str, key: str) -> bool:
        """Tell whether a request is of this kind."""
        return operation == self.operation and self.part in key


CALLS = {
    "seal": Call("build", "PutObject", "/done/"),
    "shard": Call("build", "PutObject", ".faiss"),
    "part": Call("build", "UploadPart", ".faiss", in_parts=True),
    "multipart": Call("build", "CompleteMultipartUpload", ".faiss", in_parts=True),
    "commit": Call("build", "PutObject", "/log/"),
    "head": Call("build", "HeadObject", "/v/"),
    "get": Call("query", "GetObject", "/v/"),
    "list": Call("query", "ListObjectsV2", "/log/"),
    "delete": Call("gc", "DeleteObject", "/v/"),
}
BROKEN_OFF = {"refused", "reset before", "reset after", "silence", "timeout"}
BUSY = {"internal error", "slow down", "error in a 200"}
PASSING = BROKEN_OFF | BUSY
"""Faults after which boto3 sends a request again."""
ANY = PASSING | {"short", "wrong bytes", "conflict", "precondition failed"}
RETRIED = {
    "seal": set(),  # a create is sent once
    "shard": PASSING,
    "part": PASSING,
    "multipart": {"refused", "reset before", "silence"} | BUSY,  # what is finished is gone when it is asked for again
    "commit": ANY,  # sent again until the entry can be read back
    "head": ANY,
    "get": ANY,
    "list": PASSING | {"short"},
    "delete": PASSING | {"wrong bytes"},
}
"""Faults that a call outlasts if they pass."""
CERTAIN = {
    # Refused as taken, a seal looks for the winner and goes on.
    ("seal", "precondition failed"): 0,
    # The first line of an answer says that it was done; no more is asked of it.
    **{(call, "short"): 0 for call in ("seal", "shard", "delete")},
    # The entry is there, and read back.
    **{("commit", fault): 0 for fault in ("reset after", "timeout", "short")},
    # These read like bytes of the object, or names of the log, which are not what they should be.
    ("get", "error in a 200"): 6,
    ("list", "wrong bytes"): 6,
}
"""Exit codes that do not depend on how often a fault is made."""


@dataclass(frozen=True)
class Case:
    """One fault at one kind of call."""

    call: str
    fault: str
    times: int

    @property
    def name(self) -> str:
        """Return it in words."""
        return f"{self.call}-{self.fault}-{'always' if self.times == ALWAYS else self.times}"


def expect_code(case: Case) -> int:
    """Return the right exit code of a case, from what the calls promise; nothing of the code under test is asked."""
    if case.fault == "drip":
        return 0
    if (case.call, case.fault) in CERTAIN:
        return CERTAIN[case.call, case.fault]
    if case.times < ALWAYS and case.fault in RETRIED[case.call]:
        return 0
    # An upload of which only the size of an error page is known did not arrive whole.
    return 6 if (case.call, case.fault) == ("head", "error in a 200") else 75


def list_cases(*, full: bool) -> list[Case]:
    """Return every case, or a share of them in which each call and each fault occur."""
    cases = [Case(*parts) for parts in product(CALLS, FAULTS, TIMES)]
    return cases if full else cases[::SHARE_OF_DEFAULT]


class Shop:
    """A shop that has published three nights to the strict server, and is put back to there before each case."""

    def __init__(self, server: StrictS3, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.config = folder / "shop.toml"
        self.config.write_text(
            f'[shop]\nwork = "work"\nrelease = "{URL}"\n[catalogue]\npath = "catalogue.csv"\nmax_reject_share = 0.5\n'
            "[index]\nm = 8\nef_construction = 40\nef_search = 64\nrecall_queries = 20\nthreads = 1\n"
        )
        for number, night in enumerate(NIGHTS):
            self._write_catalogue(number)
            assert self.run("build", night) == 0, self.said
        self._write_catalogue(len(NIGHTS))
        self.before = dict(server.objects)
        assert self.run("query") == 0
        self.answer = self.said

    def reset(self) -> None:
        """Go back to the three nights."""
        self.server.objects = dict(self.before)
        self.server.uploads.clear()

    def run(self, command: str, night: str = TONIGHT) -> int:
        """Run a command in this process, with no cache of an earlier one, and return its exit code."""
        words = {
            "build": ["build", "--config", str(self.config), "--run-date", night, "--encoder", str(ENCODER)],
            "query": ["query", URL, "steel mug 7", "-k", "3"],
            "gc": ["release", "gc", URL, "--keep", "2", "--grace-days", "0", "--yes"],
        }[command]
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            environment = {**self.server.environment, "XDG_CACHE_HOME": cache}
            result = CliRunner().invoke(indexer, words, env=environment)
        self.said = result.stdout if result.exit_code == 0 else f"{result.stderr} {result.exception!r}"
        return result.exit_code

    def read_live(self) -> str:
        """Return the night that is live; raises ValueError where the log has a gap or an object is not as promised.

        Reads the server's memory, and no code of the project.
        """
        root = "bucket/shop/"
        data = {place.removeprefix(root): item.data for place, item in self.server.objects.items()}
        log = sorted(key for key in data if key.startswith("log/"))
        if log != [f"log/{number:020d}.json" for number in range(1, len(log) + 1)]:
            raise ValueError(f"the log has gaps: {log}")
        entries = [json.loads(data[key]) for key in log]
        if [entry["sequence"] for entry in entries] != list(range(1, len(log) + 1)):
            raise ValueError("a log entry lies under another number")
        live = [entry for entry in entries if entry["kind"] in ("publish", "rollback")][-1]
        manifest = json.loads(_read_promised(data, live["manifest"]))
        for item in _find_objects(manifest):
            _read_promised(data, item)
        return str(manifest["run_date"])

    def _write_catalogue(self, changed: int) -> None:
        words = ("steel", "red", "blue", "cotton"), ("mug", "bag", "lamp")
        with (self.folder / "catalogue.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["product_id", "title"])
            for number in range(60):
                mark = f" night {changed}" if number < changed else ""
                rows.writerow([f"P{number}", f"{words[0][number % 4]} {words[1][number % 3]} {number}{mark}"])


def run_case(shop: Shop, case: Case) -> str:
    """Run a case; return what was wrong, or nothing."""
    call = CALLS[case.call]
    shop.reset()
    size = 64 if call.in_parts else stores.PART_BYTES
    with _scaled_time() as paused, mock.patch.object(stores, "PART_BYTES", size):
        shop.server.faults.plan(case.fault, call.chooses, case.times)
        code, said = shop.run(call.command), shop.said
        made, held = sum(shop.server.faults.made.values()), max(shop.server.faults.held.values(), default=0)
        shop.server.faults.end()
    # Requests for one address follow each other, those for several are made at once.
    seconds = held * stores.READ_SECONDS + sum(paused)
    expected = expect_code(case)
    if made == 0:
        return "no request met the fault"
    if code != expected:
        return f"ended with {code}, expected {expected}: {said.strip()}"
    if seconds > LONGEST_SECONDS:
        return f"took {seconds:.0f} s"
    return _find_torn(shop, call, code) or _find_stuck(shop, call)


def _find_torn(shop: Shop, call: Call, code: int) -> str:
    """Return what is wrong with the store after the fault."""
    try:
        live = shop.read_live()
    except (ValueError, KeyError) as problem:
        return f"the store is torn: {problem!r}"
    if call.command == "build" and (live != TONIGHT if code == 0 else live not in (NIGHTS[-1], TONIGHT)):
        return f"{live} is live after exit code {code}"
    return "" if call.command == "build" or live == NIGHTS[-1] else f"{live} is live"


def _find_stuck(shop: Shop, call: Call) -> str:
    """Run the command again without faults, and return what is wrong after that."""
    code = shop.run(call.command)
    if code:
        return f"run again it ended with {code}: {shop.said.strip()}"
    if torn := _find_torn(shop, call, 0):
        return f"run again: {torn}"
    if call.command == "query" and shop.said != shop.answer:
        return f"run again it answered {shop.said}"
    if call.command == "gc" and any(f"/v/{NIGHTS[0]}" in key and ".faiss" not in key and "/encoder/" not in key
                                    for key in shop.server.objects if "manifest" in key):  # fmt: skip
        return "run again it left the manifest of a retired run"
    return ""


def _read_promised(data: dict[str, bytes], promised: dict[str, Any]) -> bytes:
    found = data[promised["key"]]
    if len(found) != promised["bytes"] or hashlib.sha256(found).hexdigest() != promised["sha256"]:
        raise ValueError(f"{promised['key']} is not what the release promises")
    return found


def _find_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield everything in a manifest that has key, size and hash."""
    if isinstance(value, dict):
        if {"key", "bytes", "sha256"} <= value.keys():
            yield value
        for item in value.values():
            yield from _find_objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find_objects(item)


@contextmanager
def _scaled_time() -> Iterator[list[float]]:
    """Let clients lose patience soon, and skip their pauses, which are returned in seconds."""
    paused: list[float] = []
    sleep = time.sleep

    def skip(seconds: float) -> None:
        # Other threads of this process sleep as ever.
        if sys._getframe(1).f_globals["__name__"].partition(".")[0] in ("botocore", "s3transfer", "indexer"):
            paused.append(seconds)
            seconds = 0.001
        sleep(seconds)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(time, "sleep", skip))
        # `commit_entry` took its sleep when it was defined.
        stack.enter_context(mock.patch.dict(log.commit_entry.__kwdefaults__, {"sleep": skip}))
        scaled = log.COMMIT_SECONDS * WAIT_SECONDS / stores.READ_SECONDS
        stack.enter_context(mock.patch.object(log, "COMMIT_SECONDS", scaled))
        stack.enter_context(mock.patch.object(stores, "READ_SECONDS", WAIT_SECONDS))
        stack.enter_context(mock.patch.object(stores, "CONNECT_SECONDS", WAIT_SECONDS))
        yield paused


@contextmanager
def open_shop() -> Iterator[Shop]:
    """Start the strict server and publish the first nights; clients that shall be refused are diverted."""
    with serve(StrictS3()) as server, tempfile.TemporaryDirectory() as folder:
        original = stores.S3Store.__init__

        def connect(self: stores.S3Store, bucket: str, prefix: str) -> None:
            original(self, bucket, prefix)
            for client in (self._client, self._once):
                server.faults.refuse_connections(client)

        with mock.patch.object(stores.S3Store, "__init__", connect), mock.patch.dict("os.environ", server.environment):
            yield Shop(server, Path(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases, print those that went wrong and one line of sums; return 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every case; otherwise one of thirteen")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args(arguments)
    cases = [case for case in list_cases(full=options.full or bool(options.only)) if options.only in case.name]
    started, wrong = time.monotonic(), 0
    with open_shop() as shop:
        for case in cases:
            if problem := run_case(shop, case):
                wrong += 1
                print(f"{case.name}: {problem}", flush=True)
    print(f"faults | {len(cases)} cases | {wrong} wrong | {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
