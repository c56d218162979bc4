"""Build rate and quality of an HNSW index: ours against FAISS as it comes, hnswlib and usearch, with the same M.

Every contender builds in a process of its own, in rounds of changing order, from the same float32 vectors of each shape
and size: those of real texts (--texts, a folder of catalogues; beyond them real ones with noise), the same with 5 %
exact copies, or with 20 of them standing 200 times each, and random directions as the hard case. Seconds are those of
training, coding and adding. Queries are held out and the truth is exact search. Of FAISS files the hash is compared
over the rounds, and the graph is audited: every link within range, and the share of rows that are reached from the
entry point.

The run fails where a file is not opened by stock FAISS, the bytes differ between rounds or threads, or recall@10 or
@100 of ours at an efSearch of 64 or more falls more than --tolerance below FAISS's as it comes.

    python benchmarks/build.py --texts ../shared/data
    python benchmarks/build.py --texts ../shared/data --sizes 20000 100000 500000 --shapes texts --rounds 1
    python benchmarks/build.py --texts ../shared/data --dimensions 64 128 192 256
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.build_inputs import SHAPES, embed_texts, find_texts, make_vectors
from benchmarks.machine import print_machine
from benchmarks.processes import run_watched

BASELINE, OURS = "faiss", "ours"
M, EF_CONSTRUCTION = 64, 256
EF_SEARCH = (32, 64, 128, 256)
JUDGED_FROM = 64
MIN_REACHED = 0.999


@dataclass(frozen=True)
class Built:
    """One index that was built and measured."""

    seconds: float
    recall_10: dict[str, float]
    """efSearch -> recall@10."""
    recall_100: dict[str, float]
    """efSearch of 100 or more -> recall@100."""
    distances: dict[str, float]
    """efSearch -> distances per query, where the library counts them."""
    file_hash: str
    reached: float
    megabytes: float


def build_faiss(vectors: npt.NDArray[np.float32], dimensions: int) -> Any:
    """Build with FAISS as it comes; with `dimensions` as this project does, the graph on codes and without copies."""
    if dimensions:
        from indexer.hnsw import build_index
        from indexer.index_config import IndexConfig

        return build_index(vectors, IndexConfig(m=M, ef_construction=EF_CONSTRUCTION, graph_dimensions=dimensions))
    import faiss

    index: Any = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(vectors)
    return index


def measure_faiss(folder: Path, vectors: npt.NDArray[np.float32], dimensions: int) -> Built:
    """Build, write, open the file as stock FAISS does, audit the graph and search."""
    import faiss

    started = time.perf_counter()
    index = build_faiss(vectors, dimensions)
    seconds = time.perf_counter() - started
    path = folder / f"{dimensions}.faiss"
    faiss.write_index(index, str(path))
    del index
    opened: Any = faiss.read_index(str(path))
    truth, queries = np.load(folder / "truth.npy"), np.load(folder / "queries.npy")
    found_10, found_100, distances = {}, {}, {}
    for ef in EF_SEARCH:
        parameters = faiss.SearchParametersHNSW(efSearch=ef)
        faiss.cvar.hnsw_stats.reset()
        _, rows = opened.search(queries, 10, params=parameters)
        distances[str(ef)] = faiss.cvar.hnsw_stats.ndis / len(queries)
        found_10[str(ef)] = measure_recall(vectors, queries, rows, truth, 10)
        if ef >= 100:
            _, rows = opened.search(queries, 100, params=parameters)
            found_100[str(ef)] = measure_recall(vectors, queries, rows, truth, 100)
    return Built(
        seconds=seconds,
        recall_10=found_10,
        recall_100=found_100,
        distances=distances,
        file_hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        reached=audit_graph(opened),
        megabytes=path.stat().st_size / 2**20,
    )


def audit_graph(index: Any) -> float:
    """Return the share of rows reached from the entry point; ends the run where a link leads nowhere."""
    import faiss
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order

    offsets = faiss.vector_to_array(index.hnsw.offsets).astype(np.int64)
    links = faiss.vector_to_array(index.hnsw.neighbors)
    lowest = links[offsets[:-1, None] + np.arange(2 * M)]
    if (links >= index.ntotal).any() or (links < -1).any():
        raise SystemExit("a link leads to no row")
    rows, places = np.nonzero(lowest >= 0)
    graph = csr_matrix((np.ones(len(rows), np.int8), (rows, lowest[rows, places])), shape=(index.ntotal,) * 2)
    return len(breadth_first_order(graph, index.hnsw.entry_point, return_predecessors=False)) / index.ntotal


def measure_hnswlib(folder: Path, vectors: npt.NDArray[np.float32], threads: int) -> Built:
    """Build with hnswlib."""
    import hnswlib

    started = time.perf_counter()
    index: Any = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=EF_CONSTRUCTION, M=M)
    index.add_items(vectors, num_threads=threads)
    seconds = time.perf_counter() - started
    return _measure_other(folder, vectors, seconds, index, lambda queries, k: index.knn_query(queries, k)[0])


def measure_usearch(folder: Path, vectors: npt.NDArray[np.float32], threads: int) -> Built:
    """Build with usearch; its connectivity is of the upper levels, as M is."""
    from usearch.index import Index

    started = time.perf_counter()
    kind = {"ndim": vectors.shape[1], "metric": "ip", "dtype": "f32"}
    index: Any = Index(**kind, connectivity=M, expansion_add=EF_CONSTRUCTION)
    index.add(np.arange(len(vectors)), vectors, threads=threads)
    seconds = time.perf_counter() - started
    return _measure_other(folder, vectors, seconds, index, lambda queries, k: index.search(queries, k).keys)


def _measure_other(folder: Path, vectors: Any, seconds: float, index: Any, search: Any) -> Built:
    truth, queries = np.load(folder / "truth.npy"), np.load(folder / "queries.npy")
    found_10, found_100 = {}, {}
    for ef in EF_SEARCH:
        if hasattr(index, "set_ef"):
            index.set_ef(ef)
        else:
            index.expansion_search = ef
        found_10[str(ef)] = measure_recall(vectors, queries, search(queries, 10), truth, 10)
        if ef >= 100:
            found_100[str(ef)] = measure_recall(vectors, queries, search(queries, 100), truth, 100)
    return Built(seconds, found_10, found_100, {}, "", float("nan"), float("nan"))


def measure_recall(vectors: Any, queries: Any, rows: Any, truth: Any, depth: int) -> float:
    """Return the share of the rows found that are as good as the last of the best `depth`; `truth` are scores."""
    rows = rows.astype(np.int64)
    scores = np.einsum("qd,qkd->qk", queries, vectors[np.maximum(rows, 0)])
    return float(np.mean((scores >= truth[:, depth - 1 : depth] - 1e-6) & (rows >= 0)))


def prepare(folder: Path, shape: str, real: npt.NDArray[np.float32], rows: int) -> None:
    """Write the vectors, the queries and the best scores of exact search."""
    vectors, queries = make_vectors(shape, real, rows)
    best = np.full((len(queries), 100), -np.inf, dtype=np.float32)
    for start in range(0, rows, 20_000):
        scores = np.concatenate([best, queries @ vectors[start : start + 20_000].T], axis=1)
        best = -np.partition(-scores, 99, axis=1)[:, :100]
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", -np.sort(-best, axis=1))


def build_one(folder: Path, contender: str, threads: int) -> Built:
    """Build and measure a contender in this process."""
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = np.load(folder / "vectors.npy")
    if contender == "hnswlib":
        return measure_hnswlib(folder, vectors, threads)
    if contender == "usearch":
        return measure_usearch(folder, vectors, threads)
    return measure_faiss(folder, vectors, 0 if contender == BASELINE else int(contender.removeprefix(f"{OURS} ")))


def main() -> None:
    """Parse the command line and print one table per shape and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", default="", help="folder of catalogues whose texts are embedded")
    parser.add_argument("--encoder", default="", help="encoder directory")
    parser.add_argument("--kept", default=".", help="folder where the vectors of the texts are kept")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[20_000])
    parser.add_argument("--dimensions", nargs="+", type=int, default=[192])
    parser.add_argument("--others", nargs="*", default=["hnswlib", "usearch"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=0.002)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(build_one(Path(options.one[0]), options.one[1], options.threads))))
        return
    if not options.texts and options.shapes != ["random"]:
        parser.error("--texts: expected a folder of catalogues, or --shapes random")
    print_machine("faiss-cpu", "hnswlib", "usearch", "numpy")
    real = np.zeros((0, 384), dtype=np.float32)
    if options.shapes != ["random"]:
        real = embed_texts(find_texts(Path(options.texts)), options.encoder, Path(options.kept))
    print(f"{len(real):,} vectors of texts, M {M}, efConstruction {EF_CONSTRUCTION}, threads {options.threads}")
    for rows in options.sizes:
        for shape in options.shapes:
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder), shape, real, rows)
                _compare(Path(folder), shape, rows, options)


def _compare(folder: Path, shape: str, rows: int, options: argparse.Namespace) -> None:
    contenders = [BASELINE, *(f"{OURS} {number}" for number in options.dimensions), *options.others]
    rounds: list[dict[str, Built]] = []
    peaks: dict[str, int] = {}
    for number in range(options.rounds):
        found = {}
        for name in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            program = [sys.executable, __file__, "--one", str(folder), name, "--threads", str(options.threads)]
            output, peak = run_watched(program)
            found[name] = Built(**json.loads(output.splitlines()[-1]))
            peaks[name] = peak["python"]
        rounds.append(found)
    _print(shape, rows, contenders, rounds, peaks)
    _check(folder, contenders, rounds, options)


def _print(shape: str, rows: int, contenders: list[str], rounds: list[dict[str, Built]], peaks: dict[str, int]) -> None:
    head = " ".join(f"{f'@10 ef {ef}':>10}" for ef in EF_SEARCH)
    print(f"\n{shape}, {rows:,} vectors\n{'':>10} {'rows/s':>8} {'ratio':>6} {'least':>6} {'most':>6} {head} ", end="")
    print(f"{'@100 ef 128':>12} {'@100 ef 256':>12} {'dist. 128':>9} {'reached':>8} {'MiB':>6} {'GiB':>5}")
    for name in contenders:
        found = rounds[0][name]
        ratios = sorted(one[BASELINE].seconds / one[name].seconds for one in rounds)
        rate = rows / statistics.median(one[name].seconds for one in rounds)
        print(
            f"{name:>10} {rate:8,.0f} {statistics.median(ratios):6.2f} {ratios[0]:6.2f} {ratios[-1]:6.2f} "
            + " ".join(f"{found.recall_10[str(ef)]:10.4f}" for ef in EF_SEARCH)
            + f" {found.recall_100['128']:12.4f} {found.recall_100['256']:12.4f} "
            f"{found.distances.get('128', float('nan')):9,.0f} {found.reached:8.5f} {found.megabytes:6,.0f} "
            f"{peaks[name] / 2**30:5.2f}",
            flush=True,
        )


def _check(folder: Path, contenders: list[str], rounds: list[dict[str, Built]], options: argparse.Namespace) -> None:
    plain = rounds[0][BASELINE]
    for name in [name for name in contenders if name.startswith(OURS)]:
        ours = rounds[0][name]
        if len({one[name].file_hash for one in rounds}) > 1:
            raise SystemExit(f"{name}: other bytes in another round")
        program = [sys.executable, __file__, "--one", str(folder), name, "--threads", "1"]
        if options.rounds > 1 and json.loads(run_watched(program)[0].splitlines()[-1])["file_hash"] != ours.file_hash:
            raise SystemExit(f"{name}: other bytes with one thread")
        if ours.reached < min(MIN_REACHED, plain.reached):
            raise SystemExit(f"{name}: {ours.reached:.5f} of the rows are reached")
        for depth in ("recall_10", "recall_100"):
            for ef, recall in getattr(plain, depth).items():
                if int(ef) >= JUDGED_FROM and getattr(ours, depth)[ef] < recall - options.tolerance:
                    print(f"{name}: {depth} at efSearch {ef} is {getattr(ours, depth)[ef]:.4f}, FAISS's {recall:.4f}")
                    if name == f"{OURS} {options.dimensions[0]}":
                        raise SystemExit(1)


if __name__ == "__main__":
    main()
