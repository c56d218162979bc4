"""The project's own publish, rollback, pin, gc and reading code on a store that stalls, loses and kills by seed.

Every actor is a greenlet; each of its calls to the store hands control to the scheduler, which decides whose call is
answered next, and whether the request or the answer is lost or the actor killed. What must never happen is looked for
at each change of the store, from the truth that only the simulator knows.

    python tests/proof/simulation.py --schedules 20000
    python tests/proof/simulation.py --schedules 4000 --break retire
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import greenlet

sys.path.insert(0, str(Path(__file__).parents[2]))

from indexer import log
from indexer.build import publish as publishing
from indexer.build.publish import RunFolder, SealedEncoder, SealedShard, encoder_entry, encoder_seal, shard_seal
from indexer.errors import (
    ConfigError,
    IndexerError,
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    OutcomeUnknownError,
    PublishConflictError,
    StoreError,
)
from indexer.log import Entry, KeepingEntry, LogEntry
from indexer.manifest import CollectionEntry, Manifest, ShardEntry, parse_manifest
from indexer.object_cache import ObjectCache
from indexer.releases import changes, garbage, history
from indexer.store import READ_ATTEMPTS, StoredObject

STEPS = 900
ACTORS = 4
START = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = 30
"""Seconds of the simulated clock, which runs one a call."""
RULE = garbage.KeepingRule(releases=1, grace=timedelta(seconds=GRACE))
FINGERPRINT = "f" * 64


class LostError(StoreError):
    """The request or its answer was lost."""


class Killed(greenlet.GreenletExit):  # type: ignore[name-defined,misc]
    """The process is gone in the middle of a call."""


class SimulatedStore:
    """A store in a dictionary whose calls wait for the scheduler."""

    url = "simulated"

    def __init__(self, world: "World") -> None:
        self.world = world

    def get(self, key: str) -> bytes:
        return self._call(lambda: self._find(key))

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self._call(lambda: self._find(key)))

    def size(self, key: str) -> int:
        return self._call(lambda: len(self._find(key)))

    def put_new(self, key: str, data: bytes) -> None:
        self._call(lambda: self.world.create(key, data), 1)

    def put_file(self, key: str, path: Path) -> None:
        data = path.read_bytes()
        self._call(lambda: self.world.create(key, data, replacing=True))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        objects = self.world.objects
        return iter(
            self._call(
                lambda: [
                    StoredObject(key, len(objects[key][0]), objects[key][1])
                    for key in sorted(objects)
                    if key.startswith(prefix)
                ]
            )
        )

    def delete(self, key: str) -> None:
        self._call(lambda: self.world.delete(key))

    def _find(self, key: str) -> bytes:
        if key not in self.world.objects:
            raise ObjectMissingError(key)
        return self.world.objects[key][0]

    def _call(self, apply: Callable[[], Any], attempts: int = READ_ATTEMPTS) -> Any:
        for _ in range(attempts - 1):
            try:
                return greenlet.getcurrent().parent.switch(apply)
            except LostError:
                continue
        return greenlet.getcurrent().parent.switch(apply)


@dataclass
class World:
    """The store's true content, and everything that went wrong."""

    random: random.Random
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    clock: int = 0
    entries: list[Entry] = field(default_factory=list)
    numbers: set[str] = field(default_factory=set)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    violations: Counter[str] = field(default_factory=Counter)
    retired: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    commits: int = 0

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock)

    @property
    def truth(self) -> history.History:
        return history.History(url="truth", entries=tuple(self.entries))

    def create(self, key: str, data: bytes, *, replacing: bool = False) -> None:
        if key in self.objects and not replacing:
            raise ObjectExistsError(key)
        if key.startswith("log/"):
            self._enter(key, data)
        self.objects[key] = (data, self.now)

    def delete(self, key: str) -> None:
        if key.startswith("log/"):
            self.violations["a log entry was deleted"] += 1
        for run_id in self.truth.releases:
            if run_id not in self.retired and key in self._name(run_id):
                self.violations["an object of a release that may go live was deleted"] += 1
        self.objects.pop(key, None)

    def _enter(self, key: str, data: bytes) -> None:
        if key in self.numbers:
            self.violations["a log number was used twice"] += 1
        self.numbers.add(key)
        number = int(key[4:-5])
        probe = _OneObject(key, data)
        entry = log.read_any_entry(probe, number)  # type: ignore[arg-type]
        if number != len(self.entries) + 1:
            self.violations["the log has a gap"] += 1
        before = self.truth
        self.entries.append(entry)
        self.commits += 1
        if isinstance(entry, KeepingEntry):
            self._keep(entry, before.live.run_id if before.live else "")
            return
        if entry.run_id in self.retired:
            self.violations["a retired release went live"] += 1
        if entry.kind == "publish" and entry.run_id in before.releases:
            self.violations["a run was published twice"] += 1
        named = self._read(entry)
        if named is None or any(key not in self.objects for key in named):
            self.violations["a release went live with missing objects"] += 1

    def _keep(self, entry: KeepingEntry, live: str) -> None:
        runs = set(entry.runs)
        if entry.kind == "retire":
            if runs & (self.pinned | {live}):
                self.violations["a live or pinned release was retired"] += 1
            self.retired |= runs
        else:
            self.pinned = self.pinned | runs if entry.kind == "pin" else self.pinned - runs

    def find_publications(self, run_id: str) -> list[LogEntry]:
        """Return the entries that published a run."""
        lived = (entry for entry in self.entries if isinstance(entry, LogEntry) and entry.kind == "publish")
        return [entry for entry in lived if entry.run_id == run_id]

    def _name(self, run_id: str) -> set[str]:
        found: set[str] = set()
        for entry in self.find_publications(run_id):
            found |= self._read(entry) or set()
        return found

    def _read(self, entry: LogEntry) -> set[str] | None:
        stored = self.manifests.get(entry.manifest.key)
        if stored is None:
            if entry.manifest.key not in self.objects:
                return None
            stored = parse_manifest(self.objects[entry.manifest.key][0], "truth")
            self.manifests[entry.manifest.key] = stored
        return {entry.manifest.key, *(item.key for item in stored.objects)}


@dataclass(frozen=True)
class _OneObject:
    key: str
    data: bytes
    url: str = "truth"

    def get(self, key: str) -> bytes:
        return self.data


@dataclass
class Actor:
    """One process."""

    body: greenlet.greenlet
    run_id: str = ""
    waiting: Callable[[], Any] | None = None
    asleep_until: int = 0


class Simulation:
    """One schedule."""

    def __init__(self, seed: int, folder: Path, *, same_keys: bool = False) -> None:
        self.same_keys = same_keys
        self.random = random.Random(seed)
        self.world = World(self.random)
        self.store = SimulatedStore(self.world)
        self.folder = folder
        self.outcomes: Counter[str] = Counter()
        self.runs = 0
        self.lost = self.random.choice([0.0, 0.05, 0.2])
        self.killed = self.random.choice([0.0, 0.01, 0.03])

    def run(self) -> None:
        """Let actors start, call and die until the steps are spent."""
        for module in (publishing, changes):
            setattr(module, "now_text", lambda: self.world.now.isoformat())  # noqa: B010
        actors: list[Actor] = []
        for step in range(STEPS):
            if len(actors) < ACTORS and step < STEPS * 0.8:
                actors.append(self._start())
            ready = [actor for actor in actors if actor.asleep_until <= step]
            if not ready:
                continue
            actor = self.random.choice(ready)
            if self.random.random() < 0.02:
                actor.asleep_until = step + self.random.randrange(20, 160)
            if self.random.random() < self.killed:
                self._kill(actor)
            else:
                self._step(actor)
            if actor.body.dead:
                actors.remove(actor)
        for actor in actors:
            actor.body.throw(Killed())
            self.outcomes["unfinished"] += 1

    def _kill(self, actor: Actor) -> None:
        """End a process in the middle of a call, or before its first."""
        self.outcomes["killed"] += bool(actor.body)
        actor.body.throw(Killed())

    def _step(self, actor: Actor) -> None:
        self.world.clock += 1
        if actor.waiting is None:
            actor.waiting = actor.body.switch()
            return
        fate = self.random.random()
        if fate < self.lost / 2:
            actor.waiting = actor.body.throw(LostError("request lost"))
            return
        try:
            answer = actor.waiting()
        except IndexerError as error:
            actor.waiting = actor.body.throw(LostError("answer lost") if fate < self.lost else error)
            return
        if fate < self.lost:
            actor.waiting = actor.body.throw(LostError("answer lost"))
        else:
            actor.waiting = actor.body.switch(answer)

    def _start(self) -> Actor:
        draw = self.random.random()
        if draw < 0.45 or not self.world.entries:
            # Else the same run again: a resumed or doubled process.
            if not (self.runs and self.random.random() < 0.35):
                self.runs += 1
            return self._actor(self._publish, f"run{self.runs}")
        kinds = [(0.7, self._collect), (0.76, self._roll_back), (0.84, self._pin), (1.0, self._consume)]
        return self._actor(next(body for limit, body in kinds if draw < limit))

    def _actor(self, body: Callable[..., str], *arguments: str) -> Actor:
        def live() -> None:
            try:
                self.outcomes[body(*arguments)] += 1
            except PublishConflictError:
                self.outcomes["conflict"] += 1
            except OutcomeUnknownError:
                self.outcomes["unknown"] += 1
            except (StoreError, ConfigError, IntegrityError):
                self.outcomes["failed"] += 1

        return Actor(greenlet.greenlet(live), *arguments)

    def _publish(self, name: str) -> str:
        """Do what a night does: name the run, use what is live and sealed, publish."""
        past = history.read_history(self.store)
        run_id = past.name_unretired(name)
        if run_id in past.releases:
            return "published before"
        attempt = f"{self.random.getrandbits(40):010x}"
        run = RunFolder(self.store, run_id, attempt="same" if self.same_keys else attempt)
        live = past.live and log.read_manifest(self.store, past.live)
        encoder = self._seal_encoder(run, live, attempt)
        shards = [replace(shard, number=number) for number, shard in enumerate(self._shards(run, live, attempt))]
        manifest = make_manifest(run_id, past.head, encoder, shards)
        try:
            entry = publishing.publish(run, manifest)
        except PublishConflictError:
            if any(run.attempt in entry.manifest.key for entry in self.world.find_publications(run_id)):
                self.world.violations["a publisher was told of a conflict, but its release is in the log"] += 1
            raise
        if entry not in self.world.entries:
            self.world.violations["a publisher was told of success, but its release is not in the log"] += 1
        return "published"

    def _seal_encoder(self, run: RunFolder, live: Manifest | None, attempt: str) -> SealedEncoder:
        if live and self.random.random() < 0.8:
            return SealedEncoder(fingerprint=live.encoder.fingerprint, objects=live.encoder.objects)
        seal = encoder_seal(hashlib.sha256(f"{run.run_id}".encode()).hexdigest())
        sealed = run.find_sealed(seal)
        if sealed is not None:
            return sealed
        data = {"encoder.json": run.run_id.encode(), "encoder.onnx": attempt.encode(), "tokenizer.json": b"t"}
        objects = tuple(self._upload(run, f"encoder/{run.attempt}/{file}", content) for file, content in data.items())
        return run.seal(seal, SealedEncoder(fingerprint=seal.fingerprint, objects=objects))

    def _upload(self, run: RunFolder, name: str, content: bytes) -> Any:
        path = self.folder / f"{self.world.random.getrandbits(60):x}"
        path.write_bytes(content)
        try:
            return run._put(path, f"v/{run.run_id}/{name}")
        finally:
            path.unlink()

    def _shards(self, run: RunFolder, live: Manifest | None, attempt: str) -> Iterator[ShardEntry]:
        if live and self.random.random() < 0.7:
            yield from live.collections[0].shards[:2]
        seal = shard_seal("products", 0, FINGERPRINT)
        sealed = run.find_sealed(seal)
        if sealed is None:
            files = {
                kind: self._upload(run, f"products-00000.{run.attempt}.{kind}", f"{attempt}{kind}".encode())
                for kind in ("faiss", "ids", "probe")
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
            sealed = run.seal(
                seal,
                SealedShard(
                    shard=shard,
                    probe=files["probe"],
                    duplicates=0,
                    rejected={},
                    examples={},
                    truncated=0,
                    embedded=1,
                    norm_error=0.0,
                ),
            )
        yield sealed.shard

    def _collect(self) -> str:
        plan = garbage.plan_garbage(self.store, RULE, self.world.now)
        garbage.collect_garbage(self.store, plan)
        return "collected"

    def _roll_back(self) -> str:
        released = list(self.world.truth.releases)
        target = self.random.choice(released) if released and self.random.random() < 0.7 else None
        changes.roll_back(self.store, target)
        return "rolled back"

    def _pin(self) -> str:
        pinned, released = sorted(self.world.pinned), list(self.world.truth.releases)
        if pinned and self.random.random() < 0.5:
            changes.unpin(self.store, self.random.choice(pinned))
            return "unpinned"
        if not released:
            return "nothing to pin"
        changes.pin(self.store, self.random.choice(released))
        return "pinned"

    def _consume(self) -> str:
        """Do what a reader does at a refresh: head, live entry, manifest, every object by its hash."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for _ in range(3):
                entry = log.live_entry(self.store)
                if entry is None:
                    return "nothing to read"
                try:
                    manifest = log.read_manifest(self.store, entry)
                    cache = ObjectCache(self.store, Path(folder))
                    for item in manifest.downloads:
                        found = cache.fetch(item).read_bytes()
                        if hashlib.sha256(found).hexdigest() != item.sha256:
                            self.world.violations["a consumer read other bytes than were published"] += 1
                except IntegrityError:
                    live = self.world.truth.live
                    if live is not None and live.sequence == entry.sequence:
                        self.world.violations["an object of the live release is missing or changed"] += 1
                    continue
                return "read"
        return "gave up"


def make_manifest(run_id: str, head: int, encoder: SealedEncoder, shards: list[ShardEntry]) -> Manifest:
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
        run_date="2026-11-20",
        created_at="2026-11-20T04:00:00+00:00",
        parent=head,
        encoder=encoder_entry(encoder),
        collections=(collection,),
    )


class _SerialPool:
    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "_SerialPool":
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], *items: Any) -> Iterator[Any]:
        return map(function, *items)


def _retire_nothing(*_: object) -> None: ...


def _overwrite_commit(store: Any, head: int, entry: Any, **_: object) -> Any:
    data = log.write_entry(entry)
    store._call(lambda: store.world.create(log.log_key(entry.sequence), data, replacing=True))
    return entry


def _commit_once(store: Any, head: int, entry: Any, **_: object) -> Any:
    """Commit without reading back what a lost answer or a 412 meant."""
    data = log.write_entry(entry)
    for _attempt in range(3):
        try:
            store.put_new(log.log_key(entry.sequence), data)
            return entry
        except ObjectExistsError:
            raise PublishConflictError("taken") from None
        except StoreError:
            continue
    raise PublishConflictError("given up")


def _give_up(*_: object, **__: object) -> None:
    """Take a conflict for lost without reading whose entry stands there."""
    raise PublishConflictError("taken")


def _delete_log(store: Any, plan: Any) -> int:
    deleted = garbage_collect(store, plan)
    for entry in plan.history.entries[:-3]:
        store.delete(log.log_key(entry.sequence))
    return deleted


def _ignore_parent(run: Any, manifest: Manifest) -> LogEntry:
    for _ in range(5):
        try:
            return publish_once(run, replace(manifest, parent=log.read_head(run.store)))
        except ObjectExistsError:
            raise PublishConflictError("the manifest stands already") from None
        except PublishConflictError:
            continue
    raise PublishConflictError("given up")


def _fetch_unverified(self: ObjectCache, entry: Any) -> Path:
    path = self._folder.parent / "object"
    self._store.get_file(entry.key, path)
    return path


garbage_collect, publish_once = garbage.collect_garbage, publishing.publish

Patch = tuple[Any, str, Any]
BROKEN: dict[str, tuple[Patch, ...]] = {
    "retire": ((garbage, "commit_keeping", _retire_nothing),),
    "shared": ((garbage, "_name_objects", lambda *_: set()),),
    "overwrite": ((publishing, "commit_entry", _overwrite_commit), (changes, "commit_entry", _overwrite_commit)),
    "read-back": ((publishing, "commit_entry", _commit_once), (publishing, "read_history", _give_up)),
    "log": ((garbage, "collect_garbage", _delete_log),),
    "base": ((publishing, "publish", _ignore_parent),),
    "pins": ((history.History, "pinned", property(lambda self: frozenset())),),
    "retired": (
        (history.History, "retired", property(lambda self: frozenset())),
        (changes, "find_damage", lambda *_: []),
    ),
    "keys": (),
    "hashes": ((ObjectCache, "fetch", _fetch_unverified),),
}
"""Rule of the protocol -> what is replaced to break it; the last two give all attempts the same keys."""


@contextmanager
def simulated(broken: str = "") -> Iterator[None]:
    """Replace what a simulation cannot have, threads and waiting, and the rule that is to be broken."""
    patches: list[Patch] = [(history, "ThreadPoolExecutor", _SerialPool), *BROKEN.get(broken, ())]
    # Each schedule puts a clock of its own in their place.
    patches += [(module, "now_text", module.now_text) for module in (publishing, changes)]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    defaults = dict(log.commit_entry.__kwdefaults__)
    log.commit_entry.__kwdefaults__["sleep"] = lambda _: None
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(saved):
            setattr(owner, name, value)
        log.commit_entry.__kwdefaults__.update(defaults)


def simulate(seeds: range, broken: str = "") -> tuple[Counter[str], Counter[str], Counter[str], int]:
    """Run schedules; return violations, outcomes, figures, and the first seed that violated, or -1."""
    violations: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    first = -1
    with simulated(broken), tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        for seed in seeds:
            simulation = Simulation(seed, Path(folder), same_keys=broken in ("keys", "hashes"))
            simulation.run()
            violations += simulation.world.violations
            outcomes += simulation.outcomes
            figures.update(schedules=1, commits=simulation.world.commits, calls=simulation.world.clock)
            figures["violating"] += bool(simulation.world.violations)
            if simulation.world.violations and first < 0:
                first = seed
    return violations, outcomes, figures, first


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None


def main() -> None:
    """Parse the command line, print what happened, and end with 1 where anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--break", dest="broken", choices=sorted(BROKEN), default="")
    options = parser.parse_args()
    started = time.monotonic()
    size = max(1, -(-options.schedules // (4 * options.processes)))
    stop = options.first + options.schedules
    parts = [range(start, min(start + size, stop)) for start in range(options.first, stop, size)]
    with Pool(options.processes) as pool:
        found = pool.starmap(simulate, [(part, options.broken) for part in parts])
    totals = [sum((one[place] for one in found), Counter()) for place in range(3)]
    firsts = [one[3] for one in found if one[3] >= 0]
    print(f"{dict(totals[2])} in {time.monotonic() - started:.0f} s\noutcomes {dict(totals[1])}")
    print(f"violations {dict(totals[0])}" + (f", first with seed {min(firsts)}" if firsts else ""))
    sys.exit(1 if totals[0] else 0)


if __name__ == "__main__":
    main()
