"""The child of `corruption`: opens damaged files of a release, with no hash looked at, as `indexer.guard_child` does.

python -m tests.proof.corruption_child FOLDER FIRST LAST
"""

import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.canaries import check_answers, check_shard, parse_canaries
from indexer.errors import IndexerError
from indexer.guard import ChildLimits
from indexer.loaded_release import LoadedRelease, open_release, search_shards
from indexer.manifest import parse_manifest
from indexer.search_pool import SearchPool
from tests.proof.damaged_release import DamagedFiles, Sample

QUERIES = ("red mug", "steel cup", "blue school bag", "garden hose green", "desk lamp", "kids dress", "cotton shirt")


class Opener:
    """Opens a release with one file damaged and no hash looked at, in the child."""

    def __init__(self, folder: Path) -> None:
        order = json.loads((folder / "order.json").read_bytes())
        self.manifest = parse_manifest((folder / "manifest.json").read_bytes(), "proof")
        self.files = {key: Path(path) for key, path in order["files"].items()}
        samples = [
            Sample(
                item["kind"],
                item["key"],
                self.files[item["key"]].read_bytes(),
                tuple(Path(path).read_bytes() for path in item["others"]),
                tuple(Path(path).read_bytes() for path in item["old"]),
            )
            for item in order["samples"]
        ]
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.scratch = Path(tempfile.mkdtemp(prefix="corrupt-", dir=memory))
        self.damaged = DamagedFiles(self.manifest, self.files, samples, self.scratch)
        self.whole = self.ask(self.open(self.files))

    def open(self, files: Mapping[str, Path]) -> LoadedRelease:
        return open_release(0, self.manifest, files, threads=1, mapped=True, place="proof")

    def ask(self, release: LoadedRelease) -> list[Any]:
        """Return ids, texts and rounded scores of some queries in every collection."""
        vectors = release.encoder.encode(list(QUERIES), kind="query").vectors
        found = []
        for item in self.manifest.collections:
            shards = release.shards[item.name]
            live = tuple(shard.live for shard in shards)
            for places in search_shards(SearchPool(1), shards, live, vectors, 10, item.ef_search):
                found += [(hit.shard.id(hit.row), hit.shard.text(hit.row), round(hit.score, 4)) for hit in places]
        return found

    def try_number(self, number: int) -> str:
        """Return what became of the damage of this number: refused, same or different."""
        kind, files = self.damaged.make(number)
        try:
            release = self.open(files)
            for item in self.manifest.collections:
                for shard in release.shards[item.name]:
                    check_shard(shard, item.ef_search, "proof")
            assert self.manifest.canaries is not None
            data = files[self.manifest.canaries.key].read_bytes()
            check_answers(release, parse_canaries(data, "proof"), "proof")
        except IndexerError:
            return f"{kind} refused"
        return f"{kind} {'same' if self.ask(release) == self.whole else 'different'}"


def run_child(folder: Path, first: int, last: int) -> None:
    """Try the damages of these numbers and tell what became of each, line by line."""
    limits = ChildLimits(**json.loads((folder / "order.json").read_bytes())["limits"])
    limits.apply()
    # This child makes the damaged files itself, and has many to open.
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)
    opener = Opener(folder)
    try:
        for number in range(first, last):
            sys.stdout.write(f"{number} {opener.try_number(number)}\n")
            sys.stdout.flush()
    finally:
        shutil.rmtree(opener.scratch, ignore_errors=True)


if __name__ == "__main__":
    run_child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
