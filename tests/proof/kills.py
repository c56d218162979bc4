"""Builds that are killed by SIGKILL and started again: at each call to the store, and at moments of no one's choosing.

A kill in front of a call, in the middle of a creation or after it was applied must leave the old or the new release
live, all of whose bytes are right; the same command then ends well, builds no sealed shard again, and publishes what
an undisturbed build does. This process imports everything and builds nothing; each build is a fork of it.

    python -m tests.proof.kills
    python -m tests.proof.kills --full
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from indexer.manifest import Manifest
from indexer.store import LocalStore
from tests.conftest import list_products
from tests.proof.forks import fork, import_everything, open_folder, read_document, run_indexer
from tests.proof.lines import print_line
from tests.proof.shop import Shop, describe_content
from tests.proof.store_calls import WRITES, watch_calls

COMMAND = "from indexer.cli import main; main()"


class Kill:
    """Kills this process at one call to the store, counted over all its calls, or records them."""

    def __init__(self, at: int = -1, record: Path | None = None) -> None:
        self.at, self.record, self.calls = at, record, 0

    def __call__(self, store: LocalStore, when: str, verb: str, key: str) -> None:
        if not store.url.endswith("/release"):
            return
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.record:
            with self.record.open("a") as file:
                file.write(f"{when} {verb} {key}\n")
        self.calls += 1


class Trial:
    """One night that is built from the same base again and again."""

    def __init__(self, folder: Path, name: str, base: Shop, night: int, options: Sequence[str] = ()) -> None:
        self.folder, self.name, self.base, self.night, self.options = folder, name, base, night, options
        self.live = base.read_live()[0]
        calls = folder / f"{name}.calls"
        done = self._run(self.copy("undisturbed"), Kill(record=calls))
        assert done[0] == 0, done[1]
        self.calls = calls.read_text().splitlines()
        self.expected = describe_content(_require(done[2]))

    def list_points(self, *, every: bool) -> list[int]:
        """Return the numbers of the calls to kill at: all, or those that find the store in a state of their own."""
        own = [at for at, line in enumerate(self.calls) if line.split()[0] != "before" and line.split()[1] in WRITES]
        return list(range(len(self.calls))) if every else [0, *own]

    def check(self, at: int) -> int:
        """Kill a build at a call, run it again, and return how many sealed shards were there; raises AssertionError."""
        place = f"{self.name}, killed at call {at}, {self.calls[at]}"
        shop = self.copy("killed")
        code, output, _ = self._run(shop, Kill(at))
        assert code == -signal.SIGKILL, (place, code, output)
        return self.check_killed(shop, place)

    def check_killed(self, shop: Shop, place: str) -> int:
        """Look at what a killed build has left, run it again, and look at the release."""
        killed_live, found = shop.read_live()
        assert killed_live == self.live or describe_content(_require(found)) == self.expected, place
        sealed = self._read_seals(shop.store)
        code, output, manifest = self._run(shop, Kill())
        assert code == 0, (place, code, output)
        assert describe_content(_require(manifest)) == self.expected, place
        assert read_document(output)["sequence"] == shop.read_live()[0] == self.live + 1, (place, output)
        after = self._read_seals(shop.store)
        assert {name: after[name] for name in sealed} == sealed, place
        named = {item.key for item in _require(manifest).objects}
        lost = [key for keys in sealed.values() for key in keys if key not in named and ".probe." not in key]
        assert not lost, (place, lost)
        shutil.rmtree(shop.folder)
        return len(sealed)

    def _run(self, shop: Shop, hook: Kill) -> tuple[int, str, Manifest | None]:
        output = shop.folder / "output"

        def build() -> int:
            with watch_calls(hook):
                return run_indexer(shop.build_command(self.night, *self.options))

        code = fork(build, output)
        return code, output.read_text(), shop.read_live()[1]

    def _read_seals(self, store: LocalStore) -> dict[str, list[str]]:
        """Return marker of the night's run -> keys of the objects that it seals."""
        run_id = self.expected["run"][0]
        markers = [item.key for item in store.list(f"v/{run_id}/done/")]
        return {key: sorted(_find_keys(json.loads(store.get(key)))) for key in markers}

    def copy(self, name: str) -> Shop:
        """Return a shop of its own that is where the base is."""
        folder = self.folder / f"{self.name}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        return Shop(Path(shutil.copytree(self.base.folder, folder)))


def _find_keys(document: Any) -> list[str]:
    if isinstance(document, dict):
        own = [document["key"]] if {"key", "sha256"} <= document.keys() else []
        return own + [key for value in document.values() for key in _find_keys(value)]
    return [key for value in document for key in _find_keys(value)] if isinstance(document, list) else []


def _require(manifest: Manifest | None) -> Manifest:
    assert manifest is not None, "nothing is live"
    return manifest


def make_trials(folder: Path, *, shards: int) -> Iterator[Trial]:
    """Return a first night of so many shards, and a later one that builds a delta beside a shard that is kept."""
    folder.mkdir()
    rows = list_products(60)
    yield Trial(folder, "first", Shop(folder / "base-first").write(rows, shards=shards), 1)
    later = Shop(folder / "base-later").write(rows, shards=shards - 1)
    code = fork(lambda: run_indexer(later.build_command(1)), folder / "output")
    assert code == 0, (folder / "output").read_text()
    changed = [(name, f"{title} new" if at % 9 == 0 else title, brand) for at, (name, title, brand) in enumerate(rows)]
    yield Trial(folder, "later", later.write(changed[2:], shards=shards - 1), 2)


def kill_at_calls(folder: Path, *, shards: int, every: bool) -> str:
    """Kill at the calls of both nights; return what was found."""
    points = 0
    sealed = 0
    for trial in make_trials(folder, shards=shards):
        for at in trial.list_points(every=every):
            sealed += trial.check(at)
            points += 1
    assert sealed
    return f"{points} points | 0 torn, 0 of {sealed} sealed shards and encoders rebuilt"


def kill_at_random(folder: Path, kills: int, seed: int = 0) -> str:
    """Kill the real command, a fresh interpreter, at random moments of its work; return what was found."""
    draw, sealed, done, finished = random.Random(seed), 0, 0, 0
    trial = next(make_trials(folder, shards=8))
    seconds = _time_command(trial)
    while done < kills:
        shop = trial.copy("killed")
        process = _start_command(shop, trial)
        try:
            process.wait(draw.uniform(0.3, 1.0) * seconds)
            finished += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            sealed += trial.check_killed(shop, f"kill {done}")
    return f"{kills} kills | 0 torn, 0 of {sealed} sealed shards and encoders rebuilt, {finished} builds were faster"


def _start_command(shop: Shop, trial: Trial) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COMMAND, *shop.build_command(trial.night)]
    with (shop.folder / "output").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def _time_command(trial: Trial) -> float:
    started = time.monotonic()
    assert _start_command(trial.copy("timed"), trial).wait() == 0
    return time.monotonic() - started


def main() -> None:
    """Parse the command line and print a line for each kind of kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more shards, and 300 kills at random moments")
    options = parser.parse_args()
    with open_folder() as folder:
        import_everything(folder)
        started = time.monotonic()
        size, found = kill_at_calls(folder / "calls", shards=8 if options.full else 2, every=options.full).split(" | ")
        print_line("kills at store calls", size, found, time.monotonic() - started)
        if options.full:
            started = time.monotonic()
            size, found = kill_at_random(folder / "random", 300).split(" | ")
            print_line("kills", size, found, time.monotonic() - started)


if __name__ == "__main__":
    main()
