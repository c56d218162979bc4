"""A signed release of two nights, every object of it by kind, and the ways in which its bytes are damaged."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from indexer.build.release import build_release
from indexer.config import Config, ShopConfig
from indexer.encoder import ENCODER_FILES
from indexer.index_config import IndexConfig
from indexer.input_config import CatalogueConfig, PurchasesConfig
from indexer.log import log_key, read_entry, read_manifest, require_live, write_entry
from indexer.log_signature import sign_entry
from indexer.manifest import Manifest
from indexer.signature import PublicKey
from indexer.store import LocalStore
from tests.golden.make_release import HERE as GOLDEN
from tests.golden.make_release import NIGHTS, write_catalogue, write_queries
from tests.small_releases import make_signing_key

DAMAGES = ("flip", "cut", "junk", "zeros", "swap", "old copy")
SWAPPED = ("swap", "old copy")
SEED = 20261128


@dataclass(frozen=True)
class Sample:
    """One object of the release, and others that may be put in its place."""

    kind: str
    key: str
    data: bytes
    others: tuple[bytes, ...]
    """Objects of the same kind: other shards of this release."""
    old: tuple[bytes, ...]
    """Objects of the same kind of an earlier release."""


@dataclass
class Release:
    """A signed release of two nights with deltas, and all its objects by kind."""

    root: Path
    manifest: Manifest
    key: PublicKey
    samples: list[Sample]

    def restore(self, sample: Sample) -> None:
        (self.root / sample.key).write_bytes(sample.data)


class DamagedFiles:
    """Files of a release as if no hash were looked at, one of them damaged, by number."""

    def __init__(self, manifest: Manifest, files: Mapping[str, Path], samples: Sequence[Sample], scratch: Path) -> None:
        self.manifest, self.files, self.samples, self.scratch = manifest, files, samples, scratch

    def make(self, number: int) -> tuple[str, dict[str, Path]]:
        """Return the kind of the file that is damaged, and all files, until the next number is made."""
        random_ = random.Random(SEED + number)
        sample = random_.choice(self.samples)
        damage = random_.choice(("flip", "flip", "flip", *DAMAGES))
        path = self.scratch / "damaged"
        path.write_bytes(damage_bytes(damage, sample, random_))
        files = {**self.files, sample.key: path}
        if sample.kind in ENCODER_FILES and sample.kind != "encoder.json":
            files |= self._describe(sample.kind, path)
        return sample.kind, files

    def _describe(self, name: str, path: Path) -> dict[str, Path]:
        """Return an encoder.json that names the damaged file as it is: its hash is left out, too."""
        key = self.manifest.encoder.files["encoder.json"].key
        document = json.loads(self.files[key].read_bytes())
        document["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        own = self.scratch / "encoder.json"
        own.write_text(json.dumps(document))
        return {key: own}


def damage_bytes(kind: str, sample: Sample, random_: random.Random) -> bytes:
    """Return the sample's bytes damaged, and never the same."""
    data = sample.data
    if kind in SWAPPED:
        others = [other for other in (sample.others if kind == "swap" else sample.old) if other != data]
        # Where a kind has one object only, another version of it is as strange: its second half.
        return random_.choice(others) if others else data[len(data) // 2 :]
    place = random_.randrange(len(data))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ 1 << random_.randrange(8)]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "junk":
        return data + random_.randbytes(random_.randint(1, 4_096))
    length = random_.choice((16, 512, 4_096))
    zeroed = data[:place] + bytes(len(data[place : place + length])) + data[place + length :]
    return zeroed if zeroed != data else data[:-1]


def make_release(folder: Path) -> Release:
    """Build the release, sign its log, and list its objects; the folder must be empty."""
    build_nights(folder / "old", NIGHTS[1:])
    build_nights(folder / "live", NIGHTS)
    key = make_signing_key("proof", Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"proof").digest()))
    root = folder / "live" / "release"
    store = LocalStore(root)
    for sequence in (1, 2):
        entry = sign_entry(read_entry(store, sequence), key)
        (root / log_key(sequence)).write_bytes(write_entry(entry))
    live = require_live(store)
    manifest = read_manifest(store, live)
    objects = list(list_objects(root, manifest))
    old_root = folder / "old" / "release"
    old_store = LocalStore(old_root)
    older = list(list_objects(old_root, read_manifest(old_store, require_live(old_store))))
    samples = [
        Sample(
            kind,
            item,
            (root / item).read_bytes(),
            tuple((root / other).read_bytes() for same, other in objects if same == kind and other != item),
            tuple((old_root / other).read_bytes() for same, other in older if same == kind),
        )
        for kind, item in objects
    ]
    return Release(root, manifest, key.trusted, samples)


def build_nights(folder: Path, nights: tuple[str, ...]) -> None:
    """Publish nights of the golden shop to `release` below the folder."""
    folder.mkdir(parents=True)
    config = Config(
        shop=ShopConfig(name="proof", work="work", release="release"),
        catalogue=CatalogueConfig(path="catalogue.csv"),
        purchases=PurchasesConfig(path="not read"),
        index=IndexConfig(m=8, ef_construction=40, ef_search=32, shards=2, recall_queries=20, threads=1),
    )
    with chdir(folder):
        for night in nights:
            write_queries(Path("work"), night)
            write_catalogue(Path("catalogue.csv"), night)
            build_release(config, night, encoder_directory=GOLDEN / "encoder_v1", story={}, progress=False)


def list_objects(root: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the kind and key of every object that somebody reads."""
    store = LocalStore(root)
    live = require_live(store)
    yield "log entry", log_key(live.sequence)
    yield "manifest", live.manifest.key
    yield from ((entry.key.rpartition("/")[2], entry.key) for entry in manifest.encoder.objects)
    for shard in (shard for item in manifest.collections for shard in item.shards):
        named = {"index": shard.index, "ids": shard.ids, "texts": shard.texts, "digests": shard.digests}
        named["dead"] = shard.dead.rows if shard.dead else None
        yield from ((kind, entry.key) for kind, entry in named.items() if entry)
    if manifest.canaries:
        yield "canaries", manifest.canaries.key
    for path in sorted(root.glob(f"v/{live.run_id}/done/*.json")):
        yield "seal", path.relative_to(root).as_posix()
    for path in sorted(root.glob(f"v/{live.run_id}/*.probe.npz")):
        yield "probe", path.relative_to(root).as_posix()
