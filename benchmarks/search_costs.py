"""What a filter costs by each way to search it, and the memory of processes that serve loaded and mapped files."""

import json
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.search_inputs import OPTIONS, Hits, K, Vectors, open_shards, time_each, write_shards
from indexer import shard_search
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, read_index
from indexer.shard_search import search_shard, select_only

SHARES = (0.5, 0.2, 0.1, 0.03, 0.01, 0.001)
MAX_PLACES = 4_096
"""Where the graph would need more it is not timed: the time of a place grows with their number."""


def compare_filters(folder: Path, vectors: Vectors, queries: Vectors, options: IndexConfig, rounds: int) -> None:
    """Print, for rows strewn at random and rows that lie together, what scoring, graph and the reader's choice cost."""
    if not (folder / "1").exists():
        write_shards(folder / "1", vectors, 1, options)
    index = open_shards(folder / "1", vectors, options)[0].index
    faiss.omp_set_num_threads(1)
    print("CPU ms and recall@10 of one query; rows, share, all scored, by the graph, as the reader chooses")
    rng = np.random.default_rng(8)
    middle = vectors[rng.integers(0, len(vectors))]
    orders = {"at random": rng.permutation(len(vectors)), "lying together": np.argsort(-(vectors @ middle))}
    for kind, order in orders.items():
        for share in SHARES:
            rows = np.sort(order[: max(1, round(share * len(vectors)))])
            _print_filter(
                f"{kind:16} {share:6.3f}", index, vectors, queries, options, select_only(rows, len(vectors)), rounds
            )


def _print_filter(
    name: str, index: Any, vectors: Vectors, queries: Vectors, options: IndexConfig, selection: Any, rounds: int
) -> None:
    """Time the three ways in turn and print one line."""
    chosen = shard_search.PLACE_COST
    wanted = max(K, options.ef_search)
    costs = {"scored": len(vectors), "graph": 0, "chosen": chosen}
    if shard_search.ROOM * wanted * selection.size > MAX_PLACES * selection.count:
        del costs["graph"]
    times: dict[str, list[float]] = {way: [] for way in costs}
    hits: dict[str, Hits] = {}
    for _ in range(rounds):
        for way, cost in costs.items():
            shard_search.PLACE_COST = cost
            search = partial(search_shard, index, k=K, ef_search=options.ef_search, selection=selection)
            times[way].append(time_each(search, queries)[1])
            hits[way] = search(queries)[1]
    shard_search.PLACE_COST = chosen
    rows = selection.rows
    exact = rows[np.argsort(-(queries @ vectors[rows].T), axis=1, kind="stable")[:, :K]]
    recalls = {
        way: np.mean([np.isin(own, found).mean() for own, found in zip(exact, hits[way], strict=True)]) for way in hits
    }
    if recalls["scored"] < 0.999:
        raise SystemExit(f"{name}: scoring every row found {recalls['scored']:.4f} of the exact hits")
    cells = [
        f"{statistics.median(times[way]):7.3f} {recalls[way]:6.4f}" if way in costs else "      -      -"
        for way in ("scored", "graph", "chosen")
    ]
    by = "scoring" if shard_search.is_scored(selection, wanted) else "graph"
    print(f"{name}  {'   '.join(cells)}  by {by}", flush=True)


def compare_memory(folder: Path, vectors: Vectors, queries: Vectors, options: IndexConfig) -> None:
    """Print the memory of two processes that serve the same shard, loaded and mapped, before and after all queries."""
    if not (folder / "1").exists():
        write_shards(folder / "1", vectors, 1, options)
    np.save(folder / "queries.npy", queries)
    size = (folder / "1" / "0.faiss").stat().st_size / 2**20
    print(f"one shard of {size:.0f} MiB in two processes; MiB each, above the process without it")
    for way in ("loaded", "mapped"):
        program = [sys.executable, str(Path(__file__).with_name("search.py")), "--serve", way, str(folder)]
        running = [
            subprocess.Popen([*program, *map(str, vectors.shape)], stdin=-1, stdout=-1, text=True) for _ in range(2)
        ]
        for when in ("opened", "searched"):
            _ask(running, "do")
            both = _ask(running, "measure")
            figures = "  ".join(f"{name} {statistics.mean(one[name] for one in both):7.1f}" for name in both[0])
            print(f"{way}, {when:8}  {figures}", flush=True)
        for process in running:
            process.wait(timeout=60)


def serve(way: str, folder: Path, rows: int, dimension: int) -> None:
    """Open the shard, then search it, each at a word from outside, and say at another what memory that took."""
    options, queries = OPTIONS, np.load(folder / "queries.npy")
    shape = IndexShape(rows=rows, dimension=dimension, m=options.m, storage=options.storage)
    faiss.omp_set_num_threads(1)
    before = read_memory()
    index: Any = None
    for number in range(2):
        input()
        started = time.perf_counter()
        if number == 0:
            index = read_index(folder / "1" / "0.faiss", shape, mapped=way == "mapped")
        else:
            search_shard(index, queries, K, options.ef_search)
        seconds = time.perf_counter() - started
        print("{}", flush=True)
        input()
        memory = read_memory()
        taken = {name: (memory[name] - before[name]) / 1024 for name in memory}
        print(json.dumps(taken | {"in ms": seconds * 1e3}), flush=True)


def read_memory() -> dict[str, int]:
    """Return this process's kB: resident, resident by its share of shared pages, and its own alone."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return {name: int(re.findall(rf"^{name}: +(\d+)", text, re.M)[0]) for name in ("Rss", "Pss", "Anonymous")}


def _ask(running: list[subprocess.Popen[str]], word: str) -> list[dict[str, float]]:
    """Send a word to all processes and return what they answer, when all have answered."""
    for process in running:
        if process.stdin:
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
    return [json.loads(process.stdout.readline()) for process in running if process.stdout]
