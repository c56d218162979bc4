"""Search of the same vectors in 1, 4 and 16 shards: recall, queries per second, p50 and p99; filters; memory.

What is timed is the reader's own search over shards (`indexer.loaded_release.search_shards`), k = 10, with one vector
at a time (a closed loop: the next query comes when the last one is answered) and with batches of 64. Contenders take
turns in rounds of changing order, ratios are those of one round, the median over rounds is printed with the least and
the greatest. Scores are compared with products computed by numpy and hits with exact search, answers of all numbers of
threads with each other; the run fails where a score is wrong, answers differ, or recall@10 is below --least-recall.

    python benchmarks/search.py
    python benchmarks/search.py --vectors 20000 --encoder encoder --catalogue products.jsonl.gz --queries queries.tsv
    python benchmarks/search.py --vectors 20000 --filters --memory
    python benchmarks/search.py --release demo-shop/release --queries queries.tsv

Without --encoder the vectors are synthetic clusters. With --release it is `Index.search` that is timed, from the text
of a query to its hits. CPU ms are those of all threads, and steadier than p50 where the machine does other work, too.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.latency import make_queries, read_queries
from benchmarks.machine import print_machine
from benchmarks.search_costs import compare_filters, compare_memory, serve
from benchmarks.search_inputs import (
    OPTIONS,
    Hits,
    K,
    Vectors,
    embed_texts,
    make_vectors,
    open_shards,
    time_each,
    write_shards,
)
from indexer.index_config import IndexConfig
from indexer.loaded_release import search_shards
from indexer.reader import open_index
from indexer.search_pool import SearchPool

SHARDS = (1, 4, 16)
THREADS = (1, 2)
DEPTH = 100
BATCH = 64
ROUNDING = 1e-5


def find_exact(vectors: Vectors, queries: Vectors) -> tuple[Hits, Vectors]:
    """Return numbers and scores of each query's nearest rows."""
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return best, np.take_along_axis(scores, best, axis=1)


def time_batches(search: Callable[[Vectors], object], queries: Vectors) -> float:
    """Return queries per second in batches."""
    started = time.perf_counter()
    for start in range(0, len(queries), BATCH):
        search(queries[start : start + BATCH])
    return len(queries) / (time.perf_counter() - started)


def check_answers(
    search: Callable[..., Any], queries: Vectors, vectors: Vectors, exact: Hits
) -> tuple[Hits, float, float]:
    """Return hits, recall@10 and recall@100; ends the run where a score is not the product."""
    places = search(queries, k=DEPTH)
    hits = np.array([[int(shard.id(row)) for _, shard, row in found] for found in places])
    scores = np.array([[score for score, _, _ in found] for found in places])
    worst = np.abs(scores - np.einsum("qkd,qd->qk", vectors[hits], queries)).max()
    if worst > ROUNDING or (np.diff(scores, axis=1) > 0).any():
        raise SystemExit(f"scores are off by {worst:.2g} or out of order")
    recalls = [np.mean([np.isin(exact[q, :k], hits[q, :k]).mean() for q in range(len(hits))]) for k in (K, DEPTH)]
    return hits, float(recalls[0]), float(recalls[1])


def compare_shards(
    folder: Path, vectors: Vectors, queries: Vectors, options: IndexConfig, rounds: int, least: float
) -> None:
    """Print recall, speed and latency of every number of shards and threads."""
    exact, _ = find_exact(vectors, queries)
    searches: dict[tuple[int, int], Callable[..., Any]] = {}
    for count in SHARDS:
        seconds = write_shards(folder / str(count), vectors, count, options)
        print(f"{count} shards built in {seconds:.0f} s", flush=True)
        shards = open_shards(folder / str(count), vectors, options)
        for threads in THREADS:
            pool, all_rows = SearchPool(threads), (None,) * count
            searches[count, threads] = partial(search_shards, pool, shards, all_rows, k=K, ef_search=options.ef_search)
    answers = {name: check_answers(search, queries, vectors, exact) for name, search in searches.items()}
    for count in SHARDS:
        if any((answers[count, threads][0] != answers[count, 1][0]).any() for threads in THREADS):
            raise SystemExit(f"{count} shards: answers differ with the number of threads")
        if answers[count, 1][1] < least:
            raise SystemExit(f"{count} shards: recall@{K} is {answers[count, 1][1]:.4f}, below {least}")
    times: dict[tuple[int, int], list[list[float]]] = {name: [] for name in searches}
    rates: dict[tuple[int, int], list[float]] = {name: [] for name in searches}
    spent: dict[tuple[int, int], list[float]] = {name: [] for name in searches}
    for number in range(rounds):
        for name in list(searches)[:: 1 if number % 2 == 0 else -1]:
            alone, cpu = time_each(searches[name], queries)
            times[name].append(alone)
            spent[name].append(cpu)
            rates[name].append(time_batches(searches[name], queries))
    print(f"{len(queries)} queries, k = {K}, efSearch {options.ef_search}, {rounds} rounds; ratio to 1 shard, 1 thread")
    head = "".join(f"{name:>10}  {'ratio':22}" for name in ("p50 ms", "p99 ms", "CPU ms", "batched/s"))
    print(f"shards threads  recall@10   @100{head}")
    for name in searches:
        _, at_10, at_100 = answers[name]
        cells = [f"{name[0]:6} {name[1]:7}  {at_10:9.4f} {at_100:.4f}"]
        for place in (50, 99):
            own, other = ([float(np.percentile(run, place)) for run in times[side]] for side in (name, (1, 1)))
            cells.append(describe(own, other, 3))
        cells += [describe(spent[name], spent[1, 1], 3), describe(rates[name], rates[1, 1], 0)]
        print("  ".join(cells), flush=True)


def describe(own: Sequence[float], other: Sequence[float], digits: int) -> str:
    """Return the median, and its ratio to another's, round by round."""
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{statistics.median(own):8.{digits}f}  {spread:20}"


def time_release(url: str, queries: Sequence[str], rounds: int) -> None:
    """Print p50 and p99 of `Index.search`, from text to hits."""
    indexes = {
        (threads, mapped): open_index(url, threads=threads, mapped=mapped)
        for threads in THREADS
        for mapped in (False, True)
    }
    times: dict[tuple[int, bool], list[float]] = {name: [] for name in indexes}
    answers = {name: index.search_batch(queries[:200]) for name, index in indexes.items()}
    if any(answer != answers[1, False] for answer in answers.values()):
        raise SystemExit("answers differ with threads or mapping")
    for number in range(rounds):
        for name in list(indexes)[:: 1 if number % 2 == 0 else -1]:
            for query in queries:
                started = time.perf_counter_ns()
                indexes[name].search(query, k=K)
                times[name].append((time.perf_counter_ns() - started) / 1e6)
    print(indexes[1, False].release)
    for (threads, mapped), found in times.items():
        p50, p99 = np.percentile(found, [50, 99])
        way = "mapped" if mapped else "loaded"
        print(f"{threads} threads, {way}: p50 {p50:.3f} ms, p99 {p99:.3f} ms, {len(found)} queries")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--encoder", default="", help="folder of an exported encoder")
    parser.add_argument("--catalogue", default="", help="JSONL of products with a title; generated titles without")
    parser.add_argument("--queries", default="", help="file of queries, one per line, or the first column of a TSV")
    parser.add_argument("--number", type=int, default=1_000, help="of queries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least-recall", type=float, default=0.9)
    parser.add_argument("--filters", action="store_true", help="compare filters, too")
    parser.add_argument("--memory", action="store_true", help="compare memory, too")
    parser.add_argument("--release", default="", help="time Index.search on this release instead")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        way, folder, rows, dimension = options.serve
        return serve(way, Path(folder), int(rows), int(dimension))
    print_machine("faiss-cpu", "numpy", "onnxruntime")
    if options.release:
        texts = read_queries(options.queries, options.number) if options.queries else make_queries(options.number)
        return time_release(options.release, texts, options.rounds)
    if options.encoder:
        vectors, queries = embed_texts(
            Path(options.encoder), options.catalogue, options.queries, options.vectors, options.number
        )
    else:
        vectors, queries = make_vectors(options.vectors, options.number)
    print(
        f"{len(vectors)} vectors of {vectors.shape[1]}, {'by ' + options.encoder if options.encoder else 'synthetic'}"
    )
    with tempfile.TemporaryDirectory() as folder:
        compare_shards(Path(folder), vectors, queries, OPTIONS, options.rounds, options.least_recall)
        if options.filters:
            compare_filters(Path(folder), vectors, queries[:100], OPTIONS, options.rounds)
        if options.memory:
            compare_memory(Path(folder), vectors, queries, OPTIONS)


if __name__ == "__main__":
    main()
