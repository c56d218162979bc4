"""Vectors, queries and shards that the search benchmark runs on, and its clock."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.latency import make_queries, read_queries
from benchmarks.nights import make_title
from indexer.encoder import open_encoder
from indexer.hnsw import build_index, write_index
from indexer.index_config import UNCHOSEN_EF_SEARCH, IndexConfig
from indexer.index_file import IndexShape, read_index
from indexer.loaded_shard import LoadedShard
from indexer.shard_file import read_lines

Vectors = npt.NDArray[np.float32]
Hits = npt.NDArray[np.int64]
K = 10
OPTIONS = IndexConfig(ef_search=UNCHOSEN_EF_SEARCH)
WARM_UP = 50
DIMENSION = 384
ROWS_PER_CLUSTER = 20
SPREAD = 0.8
"""Length of the part of a synthetic row that is not its cluster's."""


def make_vectors(rows: int, queries: int) -> tuple[Vectors, Vectors]:
    """Return synthetic unit vectors in clusters of about 20 rows; queries lie in the same clusters.

    The variance of direction i falls as 1 / i, as vectors of texts have a few leading directions, too.
    """
    rng = np.random.default_rng(5)
    scale = np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.5
    centres = _unit(scale * rng.standard_normal((max(1, rows // ROWS_PER_CLUSTER), DIMENSION), dtype=np.float32))
    noise = _unit(scale * rng.standard_normal((rows + queries, DIMENSION), dtype=np.float32))
    own = rng.integers(0, len(centres), rows + queries)
    found = _unit(centres[own] + SPREAD * noise)
    return found[:rows], found[rows:]


def embed_texts(encoder: Path, catalogue: str, queries: str, rows: int, count: int) -> tuple[Vectors, Vectors]:
    """Return the vectors of product titles, of a JSONL catalogue or generated, and of queries."""
    titles = read_titles(Path(catalogue), rows) if catalogue else make_titles(rows)
    asked = read_queries(queries, count) if queries else make_queries(count)
    opened = open_encoder(encoder, threads=0)
    parts = [opened.encode_products(titles[start : start + 1_024]) for start in range(0, len(titles), 1_024)]
    return np.concatenate(parts), opened.encode_queries(asked)


def make_titles(rows: int) -> list[str]:
    """Return generated titles of shop words."""
    rng = np.random.default_rng(6)
    return [make_title(rng, serial) for serial in range(rows)]


def read_titles(catalogue: Path, rows: int) -> list[str]:
    """Return the first titles of a catalogue, plain or .gz."""
    opener: Any = gzip.open if catalogue.suffix == ".gz" else open
    with opener(catalogue, "rt", encoding="utf-8") as file:
        titles = [json.loads(line)["title"] for line, _ in zip(file, range(rows), strict=False)]
    if len(titles) < rows:
        raise SystemExit(f"{catalogue}: {len(titles)} products, {rows} were asked for")
    return titles


def write_shards(folder: Path, vectors: Vectors, shards: int, options: IndexConfig) -> float:
    """Write row r to shard r % shards, with its number as id; returns seconds."""
    started = time.monotonic()
    folder.mkdir()
    for number in range(shards):
        write_index(build_index(np.ascontiguousarray(vectors[number::shards]), options), folder / f"{number}.faiss")
        ids = "".join(f"{row}\n" for row in range(number, len(vectors), shards))
        (folder / f"{number}.ids").write_text(ids)
    return time.monotonic() - started


def open_shards(folder: Path, vectors: Vectors, options: IndexConfig, *, mapped: bool = False) -> list[LoadedShard]:
    """Open the shards that `write_shards` wrote of these vectors."""
    found = []
    files = sorted(folder.glob("*.faiss"), key=lambda path: int(path.stem))
    for number, path in enumerate(files):
        size = len(vectors[number :: len(files)])
        shape = IndexShape(rows=size, dimension=vectors.shape[1], m=options.m, storage=options.storage)
        index = read_index(path, shape, mapped=mapped)
        ids = read_lines(path.with_suffix(".ids"), size, mapped=mapped)
        found.append(LoadedShard(index=index, ids=ids, texts=None))
    return found


def time_each(search: Callable[[Vectors], object], queries: Vectors) -> tuple[list[float], float]:
    """Return the milliseconds of each query alone, and CPU milliseconds per query."""
    for row in range(WARM_UP):
        search(queries[row % len(queries)][None])
    times = []
    spent = time.process_time()
    for query in queries:
        started = time.perf_counter_ns()
        search(query[None])
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times, (time.process_time() - spent) / len(queries) * 1e3


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
