"""The child of `corruption`: opens damaged files of a release, with no hash looked at, as `indexer.guard_child` does.

python -m tests.proof.corruption_child FOLDER FIRST LAST
"""

import hashlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.canaries import check_answers, check_shard, parse_canaries
from indexer.encoder import ENCODER_FILES
from indexer.errors import IndexerError
from indexer.guard import ChildLimits
from indexer.loaded_release import LoadedRelease, open_release, search_shards
from indexer.manifest import parse_manifest
from indexer.search_pool import SearchPool
from tests.proof.damaged_release import DAMAGES, Sample, damage_bytes

SEED = 20261128
QUERIES = ("red mug", "steel cup", "blue school bag", "garden hose green", "desk lamp", "kids dress", "cotton shirt")


class Opener:
    """Opens a release with one file damaged and no hash looked at, in the child."""

    def __init__(self, folder: Path) -> None:
        order = json.loads((folder / "order.json").read_bytes())
        self.manifest = parse_manifest((folder / "manifest.json").read_bytes(), "proof")
        self.files = {key: Path(path) for key, path in order["files"].items()}
        self.samples = [
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
        random_ = random.Random(SEED + number)
        sample = random_.choice(self.samples)
        damage = random_.choice(("flip", "flip", "flip", *DAMAGES))
        path = self.scratch / "damaged"
        path.write_bytes(damage_bytes(damage, sample, random_))
        files = {**self.files, sample.key: path}
        if sample.kind in ENCODER_FILES and sample.kind != "encoder.json":
            files |= self.describe(sample.kind, path)
        try:
            release = self.open(files)
            for item in self.manifest.collections:
                for shard in release.shards[item.name]:
                    check_shard(shard, item.ef_search, "proof")
            assert self.manifest.canaries is not None
            data = files[self.manifest.canaries.key].read_bytes()
            check_answers(release, parse_canaries(data, "proof"), "proof")
        except IndexerError:
            return f"{sample.kind} refused"
        return f"{sample.kind} {'same' if self.ask(release) == self.whole else 'different'}"

    def describe(self, name: str, path: Path) -> dict[str, Path]:
        """Return an encoder.json that names the damaged file as it is: its hash is left out, too."""
        key = self.manifest.encoder.files["encoder.json"].key
        document = json.loads(self.files[key].read_bytes())
        document["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        own = self.scratch / "encoder.json"
        own.write_text(json.dumps(document))
        return {key: own}


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
