"""What looking before opening costs: hashes, the graph's check, the load, and the child that tries a release first.

    python benchmarks/guard.py --rows 100000

One shard of random unit vectors in 384 dimensions (M = 64); the child opens one of the golden encoder's 32, on this
machine's page cache; each figure is the median of `--rounds`.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from indexer.guard import ChildLimits, try_release
from indexer.hnsw import build_index, write_index
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, check_index_file, read_index, read_layout
from indexer.manifest import CollectionEntry, EncoderEntry, Manifest, ObjectEntry, ShardEntry
from indexer.shard_file import write_lines
from indexer.store import hash_file

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "encoder_v1"
DIMENSION, M = 32, 64


def main() -> None:
    """Parse the command line, build a shard, and print what each step takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--storage", default="flat")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for dimension in (384, DIMENSION):
            measure(Path(folder), options, dimension)


def measure(folder: Path, options: argparse.Namespace, dimension: int) -> None:
    """Print the times for one shard; a release is tried only in the dimension of the golden encoder."""
    shape = IndexShape(rows=options.rows, dimension=dimension, m=M, storage=options.storage)
    path = folder / f"products-{dimension}.faiss"
    vectors = np.random.default_rng(1).standard_normal((options.rows, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Links of a quick build are as many as those of a good one.
    write_index(build_index(vectors, IndexConfig(m=M, ef_construction=64, storage=options.storage)), path)
    size = path.stat().st_size
    print(f"{options.rows:,} rows of {dimension} dimensions, {options.storage}, {size / 2**20:.0f} MiB")
    steps: dict[str, Callable[[], object]] = {
        "hash": lambda: hash_file(path),
        "layout": lambda: read_layout(path, shape),
        "layout and graph": lambda: check_index_file(path, shape),
        "check and load": lambda: read_index(path, shape),
        "check and map": lambda: read_index(path, shape, mapped=True),
    }
    if dimension == DIMENSION:
        manifest, files = describe_release(folder, path, options.rows, options.storage)
        steps["child"] = lambda: try_release(manifest, files, place="benchmark")
        print(f"limits of the child: {ChildLimits.of(manifest)}")
    for name, step in steps.items():
        spent = []
        for _ in range(options.rounds):
            started = time.perf_counter()
            step()
            spent.append(time.perf_counter() - started)
        print(f"  {name:18} {1_000 * statistics.median(spent):8.1f} ms")


def describe_release(folder: Path, index: Path, rows: int, storage: str) -> tuple[Manifest, dict[str, Path]]:
    """Return a release of one shard as its manifest and files."""
    ids = folder / "products.ids"
    write_lines(ids, (f"P{row}" for row in range(rows)))
    files = {f"v/a/{path.name}": path for path in (*sorted(GOLDEN.iterdir()), index, ids)}
    entries = {
        path.name: ObjectEntry(key=key, bytes=path.stat().st_size, sha256=hash_file(path))
        for key, path in files.items()
    }
    shard = ShardEntry(
        collection="products",
        number=0,
        rows=rows,
        fingerprint=hashlib.sha256(b"").hexdigest(),
        index=entries[index.name],
        ids=entries[ids.name],
        texts=None,
    )
    collection = CollectionEntry(
        name="products",
        rows=rows,
        rows_in=rows,
        duplicates=0,
        rejected={},
        dimension=DIMENSION,
        metric="inner_product",
        storage=storage,
        m=M,
        ef_construction=64,
        ef_search=64,
        shards=(shard,),
    )
    encoder = tuple(entries[path.name] for path in sorted(GOLDEN.iterdir()))
    manifest = Manifest(
        run_id="benchmark",
        run_date="2026-01-01",
        created_at="2026-01-01T00:00:00Z",
        parent=0,
        encoder=EncoderEntry(fingerprint=entries["encoder.json"].sha256, objects=encoder),
        collections=(collection,),
    )
    return manifest, files


if __name__ == "__main__":
    main()
