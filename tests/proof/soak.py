"""Many nights of a shop on a store that fails: nothing is left that nobody needs, and memory and open files stay.

Each night some products change; the build is given again until it ends well, 2 % of its calls to the store being lost
before or after they are applied (what only reads is tried three times, as the client of a bucket does). There are
compactions, rollbacks, pins, builds that are given up and uploads that were killed. A consumer follows, and a
collection runs; then every file becomes a day older.

    python -m tests.proof.soak --nights 30
    python -m tests.proof.soak --full
"""

import argparse
import gc
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from indexer.errors import ConfigError, StoreError
from indexer.log import LogEntry, log_key, read_manifest
from indexer.reader import Index, open_index
from indexer.releases import changes, history
from indexer.releases.garbage import KeepingRule, collect_garbage, plan_garbage
from indexer.store import DRAFT, READ_ATTEMPTS, LocalStore
from tests.conftest import list_products
from tests.proof.forks import open_folder
from tests.proof.lines import hide_plans, print_line
from tests.proof.shop import Shop
from tests.proof.stand_ins import serial
from tests.proof.store_calls import READS, watch_calls

DAY = timedelta(days=1)
RULE = KeepingRule(releases=3, grace=2 * DAY)
FAULTS = 0.02
SETTLED = 50
"""Nights after which memory is measured for the first time."""
MOST_GROWTH = 0.1
"""Share of that memory by which the process may have grown in the end."""

Found = TypeVar("Found")


@dataclass
class Soak:
    """A shop, its consumer, and what has been seen."""

    shop: Shop
    draw: random.Random
    rows: list[tuple[str, str, str]] = field(default_factory=lambda: list_products(60))
    seen: Counter[str] = field(default_factory=Counter)
    failing: bool = False
    giving_up: bool = False
    index: Index | None = None
    serial: int = 0

    @property
    def store(self) -> LocalStore:
        return self.shop.store

    def fail(self, store: LocalStore, when: str, verb: str, key: str) -> None:
        """Lose a call, or its answer; a build that is given up ends at its first shard."""
        if self.giving_up and verb == "put_new" and "/done/products" in key:
            raise StoreError("given up")
        tries = READ_ATTEMPTS if verb in READS else 1
        if self.failing and all(self.draw.random() < FAULTS / 2 for _ in range(tries)):
            self.seen["faults"] += 1
            raise StoreError(f"{verb} {key}: lost {when}")

    def live_through(self, night: int) -> None:
        """Do what a night and the people of a day do; raises AssertionError where something is left over."""
        self._change_rows()
        if night % 6 == 2:
            self._give_up_build(night)
        self._write()
        summary = self._insist(lambda: self.shop.build(night))
        self.seen[summary.status] += 1
        if night % 7 == 3:
            self.seen[f"compaction {self._insist(lambda: self.shop.build(night, 'vectors')).status}"] += 1
        self._meddle()
        self._consume()
        self._insist(lambda: collect_garbage(self.store, plan_garbage(self.store, RULE), most=True))
        leaks = find_leaks(self.store, datetime.now(UTC) - RULE.grace)
        assert not leaks, leaks
        self.shop.read_live()
        make_older(self.shop.folder / "release")

    def _write(self) -> None:
        self.shop.write(self.rows, shards=2, index="max_deltas = 3")

    def _change_rows(self) -> None:
        self.serial += 1
        for at in self.draw.sample(range(len(self.rows)), 2):
            name, _, brand = self.rows[at]
            self.rows[at] = (name, f"red desk lamp {self.serial}", brand)
        del self.rows[self.draw.randrange(len(self.rows))]
        self.rows.append((f"N{self.serial:05d}", f"blue school bag {self.serial}", "acme"))

    def _give_up_build(self, night: int) -> None:
        """Begin a build of other rows that nobody will finish, and kill an upload."""
        self.shop.write([*self.rows, (f"X{self.serial}", "green mug", "zeta")], shards=3)
        self.giving_up = True
        try:
            self.shop.build(night)
        except StoreError:
            self.seen["given up"] += 1
        finally:
            self.giving_up = False
        folder = self.shop.folder / "release" / "v" / f"killed-{self.serial}"
        folder.mkdir(parents=True)
        (folder / f"{DRAFT}{self.serial:032x}").write_bytes(b"half")

    def _meddle(self) -> None:
        draw, past = self.draw.random(), history.read_history(self.store)
        released = [run_id for run_id in past.releases if run_id not in past.retired]
        pinned = sorted(past.pinned)
        if draw < 0.1:
            self._try("rollback", lambda: changes.roll_back(self.store))
        elif draw < 0.2 and len(pinned) < 3:
            self._try("pin", lambda: changes.pin(self.store, self.draw.choice(released)))
        elif draw < 0.35 and pinned:
            self._try("unpin", lambda: changes.unpin(self.store, self.draw.choice(pinned)))

    def _try(self, name: str, change: Callable[[], Any]) -> None:
        try:
            self._insist(change)
            self.seen[name] += 1
        except ConfigError:
            self.seen[f"{name} refused"] += 1

    def _consume(self) -> None:
        if self.index is None:
            self.index = self._insist(lambda: open_index(str(self.shop.folder / "release")))
        index = self.index
        self._insist(index.refresh)
        assert index.release.sequence == self.shop.read_live()[0]
        assert index.search("red desk lamp", k=5)

    def _insist(self, call: Callable[[], Found]) -> Found:
        """Give a command again until it ends well."""
        for _ in range(200):
            self.failing = True
            try:
                return call()
            except StoreError:
                self.seen["tries"] += 1
            finally:
                self.failing = False
        raise AssertionError("a command did not end well in 200 tries")


def find_leaks(store: LocalStore, before: datetime) -> list[str]:
    """Return what a collection with a grace period that begins then should not have left."""
    past = history.read_history(store)
    written = {item.key: item.modified for item in store.list("log/")}
    lived = [entry for entry in past.entries if isinstance(entry, LogEntry)]
    kept = {run_id: entry for run_id, entry in past.releases.items() if run_id not in past.retired}
    needed = {lived[-1].run_id, *past.pinned, *list(kept)[-RULE.releases :]}
    needed |= {one.run_id for one, other in pairwise(lived) if written[log_key(other.sequence)] > before}
    leaks = [f"run {run_id} is kept" for run_id in kept if run_id not in needed]
    named = {item.key for entry in kept.values() for item in read_manifest(store, entry).objects}
    for item in store.list("v/"):
        run_id = item.key.split("/")[1]
        building = run_id not in past.releases and run_id not in past.retired
        if (run_id in past.retired and item.key not in named) or (building and not _is_young(store, run_id, before)):
            leaks.append(item.key)
    for path in store.root.rglob("*"):
        old = path.stat().st_mtime <= before.timestamp()
        if old and (path.name.startswith(DRAFT) or (path.is_dir() and not any(path.iterdir()))):
            leaks.append(str(path))
    return leaks


def _is_young(store: LocalStore, run_id: str, before: datetime) -> bool:
    return any(item.modified > before for item in store.list(f"v/{run_id}/"))


def make_older(folder: Path) -> None:
    """Let a day pass for all files of a folder."""
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - DAY.total_seconds()))


def measure_process() -> tuple[int, int]:
    """Return the bytes of memory and the number of open files of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))


def run_nights(folder: Path, nights: int, *, seed: int = 0, settled: int = SETTLED) -> tuple[Soak, dict[str, Any]]:
    """Live through so many nights; return what was seen, and how memory and open files grew since `settled`."""
    soak = Soak(Shop(folder), random.Random(seed))
    first = measure_process()
    with serial(), watch_calls(soak.fail):
        for night in range(1, nights + 1):
            soak.live_through(night)
            if night == settled:
                first = measure_process()
    memory, files = measure_process()
    stored = list(soak.store.list(""))
    return soak, {
        "growth": memory / first[0] - 1,
        "files": files - first[1],
        "objects": len(stored),
        "folders": sum(path.is_dir() for path in soak.store.root.rglob("*")),
    }


def main() -> None:
    """Parse the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="300 nights")
    parser.add_argument("--nights", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    hide_plans()
    nights = 300 if options.full else options.nights
    started = time.monotonic()
    with open_folder() as folder:
        soak, found = run_nights(folder / "shop", nights, seed=options.seed, settled=min(SETTLED, nights // 2))
    if options.full:
        assert found["files"] <= 0, found
        assert found["growth"] < MOST_GROWTH, found
    growth = f"memory {found['growth']:+.1%}, open files {found['files']:+d} since night {min(SETTLED, nights // 2)}"
    size = f"{nights} nights, {soak.seen['faults']} faults"
    print_line("soak", size, f"0 leaked objects, {found['objects']} stored, {growth}", time.monotonic() - started)
    if not options.full:
        print(dict(soak.seen))


if __name__ == "__main__":
    main()
