"""Write `release_v3`, two nights of 200 products and 60 queries in format 3, which every later reader must open.

Run once; the folder is committed and never written again: `python tests/golden/make_release.py`. `release_v1`, the
first of these nights in format 1, and `release_v2`, both in format 2, were written by earlier programs.
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
from indexer.config import Config, ShopConfig
from indexer.contracts import schemas
from indexer.index_config import IndexConfig
from indexer.input_config import CatalogueConfig, PurchasesConfig
from indexer.runs import StepCommit, StepFolder

HERE = Path(__file__).resolve().parent
NIGHTS = ("2026-11-20", "2026-11-21")
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


def write_queries(work: Path, night: str) -> None:
    """Commit 60 curated queries as the step before the build does."""
    queries = [f"{colour} {thing}" for colour, thing in product(COLOURS, THINGS)] + list(THINGS)
    ids = [hashlib.sha256(query.encode()).hexdigest()[:16] for query in queries]
    columns = [ids, queries, [20.0] * len(queries), [3] * len(queries), [False] * len(queries)]
    table = pa.table(columns, schema=schemas.CURATED_QUERIES.schema)
    step = StepFolder(work, "curated_queries", night)
    folder = step.attempt_folder("golden") / "CURATED_QUERIES"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet")
    step.commit(StepCommit(step="curated_queries", run_date=night, attempt="golden", fingerprint="golden"), 1)


def write_catalogue(path: Path, night: str) -> None:
    """Write 200 products; on the second night six have another title, two are gone and two are new."""
    second = night == NIGHTS[1]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["product_id", "title", "color"])
        for number, (thing, kind, colour) in enumerate(product(THINGS, KINDS, COLOURS)):
            title = f"{kind} {thing}" if not second or number % 40 else f"red {thing} of {kind}"
            if not (second and number in (7, 8)):
                rows.writerow([f"P{number:03d}", title, colour])
        if second:
            rows.writerows([["P900", "kids water bottle", "green"], ["P901", "garden cup", "white"]])


def main() -> None:
    """Write the folder; it must not exist."""
    release = HERE / "release_v3"
    if release.exists():
        raise SystemExit(f"{release} is a promise and stays as it is; a new format gets a folder of its own")
    config = Config(
        shop=ShopConfig(name="golden", work="work", release="release_v3"),
        catalogue=CatalogueConfig(path="catalogue.csv"),
        purchases=PurchasesConfig(path="not read"),
        index=IndexConfig(m=8, ef_construction=40, ef_search=32, shards=2, recall_queries=20, threads=1),
    )
    # Relative paths, because the report shows the configuration.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for night in NIGHTS:
            write_queries(Path(config.shop.work), night)
            write_catalogue(Path(config.catalogue.path), night)
            build_release(config, night, encoder_directory=HERE / "encoder_v1", story={}, progress=False)
        shutil.move(config.shop.release, release)
    for done in release.glob("v/*/done"):
        shutil.rmtree(done)
    for probe in release.rglob("*.probe.npz"):
        probe.unlink()


if __name__ == "__main__":
    main()
