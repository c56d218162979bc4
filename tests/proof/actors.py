"""Processes of a shop: nights, compactions, collectors, operators and consumers, each the project's own code."""

import hashlib
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import greenlet

from indexer import log
from indexer.build import publish as publishing
from indexer.build import published
from indexer.build.publish import RunFolder, SealedEncoder, SealedShard, encoder_entry, encoder_seal, shard_seal
from indexer.errors import IntegrityError, PublishConflictError
from indexer.manifest import CollectionEntry, Manifest, ShardEntry
from indexer.object_cache import ObjectCache
from indexer.releases import changes, garbage, history
from tests.proof.simulated_store import MemoryFile, SimulatedStore
from tests.proof.world import GRACE, KEPT_RELEASES, START, World

RULE = garbage.KeepingRule(releases=KEPT_RELEASES, grace=GRACE)
FINGERPRINT = "f" * 64
BUILDER_FILES = ("faiss", "ids", "probe")


def name_night(night: int, variant: str) -> tuple[str, str]:
    """Return the run and the date of a night; variants of a night differ in an option."""
    day = date(2026, 1, 1) + timedelta(days=night)
    return f"{day}-{night:03x}{variant}", str(day)


class Actors:
    """The bodies of the processes; each returns what became of it."""

    def __init__(self, world: World, draw: random.Random, folder: Path, *, same_keys: bool) -> None:
        self.world, self.random, self.folder, self.same_keys = world, draw, folder, same_keys
        self.store: Any = SimulatedStore(world)

    def publish(self, night: int, variant: str, reuse: str) -> str:
        """Do what `build_release` does: name the run, look for it in the log, use what is live and sealed, publish."""
        name, run_date = name_night(night, variant)
        past = history.read_history(self.store)
        names = past.list_names(name)
        run_id = names[-1]
        live = published.read_live(self.store, past)
        if reuse != "all":
            published.refuse_older(self.store, run_date, past)
        elif found := published.find_published(self.store, names, run_date, past, live, None, dry=False):
            return found.status
        attempt = f"{self.random.getrandbits(48):012x}"
        run = RunFolder(self.store, run_id, attempt="same" if self.same_keys else attempt)
        encoder = self._seal_encoder(run, live, attempt)
        kept = live if reuse == "all" and live and self.random.random() < 0.7 else None
        shards = [replace(shard, number=number) for number, shard in enumerate(self._shards(run, kept, attempt))]
        manifest = make_manifest(run_id, past.head, encoder, shards, run_date=run_date)
        return self._commit(run, manifest)

    def collect(self) -> str:
        skew = greenlet.getcurrent().skew
        began, expected = self.world.now, self.world.expect_collection(skew)
        plan = garbage.plan_garbage(self.store, RULE, began + skew)
        garbage.collect_garbage(self.store, plan, most=True)
        self.world.check_collection(expected, began, bool(plan.retire))
        return "collected"

    def roll_back(self) -> str:
        released = list(self.world.publications)
        target = self.random.choice(released) if released and self.random.random() < 0.7 else None
        changes.roll_back(self.store, target)
        return "rolled back"

    def pin(self) -> str:
        pinned, released = sorted(self.world.pinned), list(self.world.publications)
        if pinned and self.random.random() < 0.5:
            changes.unpin(self.store, self.random.choice(pinned))
            return "unpinned"
        if not released:
            return "nothing to pin"
        changes.pin(self.store, self.random.choice(released))
        return "pinned"

    def consume(self) -> str:
        """Do what a reader does at a refresh: head, live entry, manifest, every object by its hash."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            cache = ObjectCache(self.store, Path(folder))
            for _ in range(3):
                entry = log.live_entry(self.store)
                if entry is None:
                    return "nothing to read"
                if self._read(entry, cache):
                    return "read"
        return "gave up"

    def _read(self, entry: log.LogEntry, cache: ObjectCache) -> bool:
        try:
            for item in log.read_manifest(self.store, entry).downloads:
                found = cache.fetch(item).read_bytes()
                if hashlib.sha256(found).hexdigest() != item.sha256:
                    self.world.blame("a consumer read other bytes than were published")
        except IntegrityError:
            live = self.world.live
            if live is not None and live.sequence == entry.sequence:
                self.world.blame("an object of the live release is missing or changed")
            return False
        return True

    def _commit(self, run: RunFolder, manifest: Manifest) -> str:
        try:
            entry = publishing.publish(run, manifest)
        except PublishConflictError:
            self.world.refused.add(run.attempt)
            ours = self.world.publications.get(run.run_id, ())
            if any(run.attempt in entry.manifest.key for entry in ours):
                self.world.blame("a publisher was told of a conflict, but its release is in the log")
            raise
        if entry not in self.world.entries:
            self.world.blame("a publisher was told of success, but its release is not in the log")
        return "published"

    def _seal_encoder(self, run: RunFolder, live: Manifest | None, attempt: str) -> SealedEncoder:
        if live and self.random.random() < 0.8:
            return SealedEncoder(fingerprint=live.encoder.fingerprint, objects=live.encoder.objects)
        seal = encoder_seal(hashlib.sha256(f"{run.run_id}".encode()).hexdigest())
        sealed = run.find_sealed(seal)
        if sealed is not None:
            return sealed
        data = {"encoder.json": run.run_id.encode(), "encoder.onnx": attempt.encode(), "tokenizer.json": b"t"}
        objects = tuple(upload(run, f"encoder/{run.attempt}/{file}", content) for file, content in data.items())
        return run.seal(seal, SealedEncoder(fingerprint=seal.fingerprint, objects=objects))

    def _shards(self, run: RunFolder, kept: Manifest | None, attempt: str) -> Iterator[ShardEntry]:
        if kept:
            yield from kept.collections[0].shards[:2]
        seal = shard_seal("products", 0, FINGERPRINT)
        yield (run.find_sealed(seal) or run.seal(seal, build_shard(run, attempt))).shard


def upload(run: RunFolder, name: str, content: bytes) -> Any:
    """Upload bytes under a name in the run's folder."""
    return run._put(MemoryFile(content), f"v/{run.run_id}/{name}")  # type: ignore[arg-type]


def build_shard(run: RunFolder, attempt: str) -> SealedShard:
    """Upload the files of a shard."""
    files = {
        kind: upload(run, f"products-00000.{run.attempt}.{kind}", f"{attempt}{kind}".encode()) for kind in BUILDER_FILES
    }
    shard = ShardEntry(
        collection="products",
        number=0,
        rows=1,
        fingerprint=FINGERPRINT,
        index=files["faiss"],
        ids=files["ids"],
        texts=None,
    )
    return SealedShard(
        shard=shard,
        probe=files["probe"],
        duplicates=0,
        rejected={},
        examples={},
        truncated=0,
        cut_fields={},
        embedded=1,
        norm_error=0.0,
    )


def make_manifest(
    run_id: str, head: int, encoder: SealedEncoder, shards: list[ShardEntry], *, run_date: str = "2026-11-20"
) -> Manifest:
    """Return the manifest of a release of these shards."""
    collection = CollectionEntry(
        name="products",
        rows=len(shards),
        rows_in=len(shards),
        duplicates=0,
        rejected={},
        dimension=2,
        metric="inner_product",
        storage="flat",
        m=4,
        ef_construction=8,
        ef_search=8,
        shards=tuple(shards),
    )
    return Manifest(
        run_id=run_id,
        run_date=run_date,
        created_at=START.isoformat(),
        parent=head,
        encoder=encoder_entry(encoder),
        collections=(collection,),
    )
