"""Write `release_v1`, a release of 200 products and 60 queries in format 1 that every later reader must open.

Run once; the folder is committed and never written again: `python tests/golden/make_release.py`.
"""

import csv
import hashlib
import shutil
import tempfile
from contextlib import chdir
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.build.release import build_release
from indexer.config import Config, IndexConfig, ShopConfig
from indexer.contracts import schemas
from indexer.input_config import CatalogueConfig, PurchasesConfig
from indexer.runs import StepCommit, StepFolder

HERE = Path(__file__).resolve().parent
RUN_DATE = "2026-11-20"
THINGS = (
    "baby bottle",
    "water bottle",
    "cup",
    "mug",
    "school bag",
    "running shoes",
    "shirt",
    "dress",
    "desk lamp",
    "hose",
)
KINDS = ("steel", "cotton", "kids", "garden")
COLOURS = ("red", "blue", "green", "black", "white")


def write_queries(work: Path) -> None:
    """Commit 60 curated queries as the step before the build does."""
    queries = [f"{colour} {thing}" for colour, thing in product(COLOURS, THINGS)] + list(THINGS)
    ids = [hashlib.sha256(query.encode()).hexdigest()[:16] for query in queries]
    columns = [ids, queries, [20.0] * len(queries), [3] * len(queries), [False] * len(queries)]
    table = pa.table(columns, schema=schemas.CURATED_QUERIES.schema)
    step = StepFolder(work, "curated_queries", RUN_DATE)
    folder = step.attempt_folder("golden") / "CURATED_QUERIES"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet")
    step.commit(StepCommit(step="curated_queries", run_date=RUN_DATE, attempt="golden", fingerprint="golden"), 1)


def write_catalogue(path: Path) -> None:
    """Write 200 products."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["product_id", "title", "color"])
        for number, (thing, kind, colour) in enumerate(product(THINGS, KINDS, COLOURS)):
            rows.writerow([f"P{number:03d}", f"{kind} {thing}", colour])


def main() -> None:
    """Write the folder; it must not exist."""
    release = HERE / "release_v1"
    if release.exists():
        raise SystemExit(f"{release} is a promise and stays as it is; a new format gets a folder of its own")
    config = Config(
        shop=ShopConfig(name="golden", work="work", release="release_v1"),
        catalogue=CatalogueConfig(path="catalogue.csv"),
        purchases=PurchasesConfig(path="not read"),
        index=IndexConfig(m=8, ef_construction=40, ef_search=32, shards=2, recall_queries=20, threads=1),
    )
    # Relative paths, because the report shows the configuration.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_queries(Path(config.shop.work))
        write_catalogue(Path(config.catalogue.path))
        build_release(config, RUN_DATE, encoder_directory=HERE / "encoder_v1", story={}, progress=False)
        shutil.move(config.shop.release, release)
    for done in release.glob("v/*/done"):
        shutil.rmtree(done)
    for probe in release.rglob("*.probe.npy"):
        probe.unlink()


if __name__ == "__main__":
    main()
