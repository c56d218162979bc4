"""A tiny shop by a file, as commands read it, and what its store says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from indexer.config import Config
from indexer.config_file import load_config
from indexer.log import live_entry, read_manifest
from indexer.manifest import Manifest
from indexer.releases.verify import examine_objects
from indexer.store import LocalStore
from tests.conftest import GOLDEN, write_catalogue

ENCODER = GOLDEN / "encoder_v1"
SETTINGS = """
[shop]
work = "work"
release = "release"
[catalogue]
path = "catalogue.csv"
max_reject_share = 0.5
[index]
m = 8
ef_construction = 40
ef_search = 64
recall_queries = 20
threads = 1
shards = {shards}
{index}
[gates]
max_shrink = 1
max_growth = 1000
max_exchange = 1
"""

Product = Sequence[str | None]


@dataclass(frozen=True)
class Shop:
    """A folder with everything a night reads and writes."""

    folder: Path

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "release")

    @property
    def config(self) -> Config:
        return load_config(str(self.folder / "shop.toml"), environment={})

    def write(self, products: Iterable[Product], *, shards: int = 2, index: str = "") -> "Shop":
        """Write settings and catalogue."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "shop.toml").write_text(SETTINGS.format(shards=shards, index=index))
        write_catalogue(self.folder / "catalogue.csv", products)
        return self

    def build(self, night: int, reuse: str = "all") -> Any:
        """Build in this process."""
        from indexer.build.release import build_release

        return build_release(
            self.config, name_date(night), encoder_directory=ENCODER, story={}, progress=False, reuse=reuse
        )

    def build_command(self, night: int, *options: str) -> list[str]:
        """Return the arguments of `indexer` that build."""
        arguments = ["build", "--config", str(self.folder / "shop.toml"), "--run-date", name_date(night), "--json"]
        return [*arguments, "--encoder", str(ENCODER), "--no-progress", *options]

    def read_live(self) -> tuple[int, Manifest | None]:
        """Return number and manifest of the live entry, whose objects must all be as they were published."""
        entry = live_entry(self.store)
        if entry is None:
            return 0, None
        manifest = read_manifest(self.store, entry)
        damage = examine_objects(self.store, manifest.objects)
        assert not damage, damage
        return entry.sequence, manifest


def name_date(night: int) -> str:
    """Return the date of a night."""
    return str(date(2026, 1, 1) + timedelta(days=night))


def describe_content(manifest: Manifest) -> dict[str, Any]:
    """Return what a release is made of, without what names its attempts and tells its times."""
    report = manifest.report.key if manifest.report else ""
    return {
        "run": (manifest.run_id, manifest.run_date, manifest.parent, manifest.encoder.fingerprint),
        "objects": [item.sha256 for item in manifest.objects if item.key != report],
        "shards": [
            (item.name, shard.number, shard.rows, shard.live_rows, shard.delta, shard.fingerprint)
            for item in manifest.collections
            for shard in item.shards
        ],
        "gates": manifest.gates,
        "config": manifest.config,
        "versions": manifest.versions,
    }
