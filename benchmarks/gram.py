"""Strong query pairs by five ways, interleaved: the pruned product, a Spark self-join, DuckDB, scipy, sparse_dot_topn.

Every contender runs in a process of its own, reads PURCHASES from Parquet, and writes all pairs above tau with their
walk NPMI to Parquet. The pair sets must be equal and the scores within 1e-9, or the run fails. What is compared is
the work after start-up; for Spark start-up is the session and one run on 2,000 pairs, for the others the imports.

    python benchmarks/gram.py --pairs 300000 --tau 0.5
    python benchmarks/gram.py --pairs 1200000 --rounds 3 --skip self_join
    python benchmarks/gram.py --curve 300000 1200000 3000000 10000000

duckdb and sparse_dot_topn are not among the project's requirements: pip install duckdb sparse_dot_topn.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gram_inputs import SHAPES, write_purchases
from benchmarks.machine import print_machine
from benchmarks.processes import run_watched

CORES, MEMORY = 2, "4g"
WARM_PAIRS = 2_000
ROWS_AT_ONCE = 20_000
PARTNERS = 4_096
"""sparse_dot_topn asks for a limit; the check of the pair sets tells whether it was too low."""


def run_pruned(session: Any, source: Path, target: Path, tau: float, *, shuffled: bool = False) -> dict[str, Any]:
    """Find the pairs as jobs/npmi_pairs.py does, with no limit but tau; `shuffled`: as if no task could hold all."""
    from indexer.job_config import GramConfig, NpmiConfig
    from spark.pair_plan import plan_pairs

    limits, rows = NpmiConfig(tau=tau, min_support=0, top_k=10**9), pq.read_metadata(source).num_rows
    block_entries = min(GramConfig().block_entries, rows - 1) if shuffled else GramConfig().block_entries
    with plan_pairs(session, source, limits, rows=rows, block_entries=block_entries) as plan:
        columns = ("query_a", "query_b", "npmi", "tally", "count")
        plan.score().select(*columns).write.mode("overwrite").parquet(str(target))
    tallies = pq.read_table(target, columns=["tally", "count"], filters=[("tally", "=", "multiply_adds")])
    return {"multiply_adds": sum(tallies["count"].to_pylist()), "blocks": plan.forecast.blocks}


def run_self_join(session: Any, source: Path, target: Path, tau: float, *, join: str) -> dict[str, Any]:
    """Join the purchases with themselves on integer codes, half of the pairs, and put the names back at the end."""
    from pyspark.sql import functions as F

    purchases = session.read.parquet(str(source))
    total = purchases.agg(F.sum("purchases")).collect()[0][0]
    queries = purchases.groupBy("query").agg((F.sum("purchases") / total).alias("p"))
    numbered = queries.withColumn("number", F.monotonically_increasing_id()).persist()
    sums = purchases.groupBy("product_id").agg(F.sum("purchases").alias("all"))
    entries = (
        purchases.join(numbered.select("query", "number"), "query")
        .join(sums, "product_id")
        .select(
            "number",
            F.xxhash64("product_id").alias("code"),
            F.col("purchases").cast("double").alias("count"),
            (F.col("purchases") / F.col("all") / total).alias("step"),
        )
        .persist()
    )
    left, right = entries.alias("a"), entries.alias("b").hint(join)
    same = (F.col("a.code") == F.col("b.code")) & (F.col("a.number") < F.col("b.number"))
    pairs = left.join(right, same).groupBy(F.col("a.number").alias("a"), F.col("b.number").alias("b"))
    joint = pairs.agg(F.sum(F.col("a.count") * F.col("b.step")).alias("joint"))
    sides = [numbered.select(*(F.col(name).alias(f"{name}_{side}") for name in numbered.columns)) for side in "ab"]
    named = joint.join(sides[0], F.col("a") == F.col("number_a")).join(sides[1], F.col("b") == F.col("number_b"))
    score = (F.ln("joint") - F.ln("p_a") - F.ln("p_b")) / -F.ln("joint")
    strong = named.select(
        F.least("query_a", "query_b").alias("query_a"),
        F.greatest("query_a", "query_b").alias("query_b"),
        score.alias("npmi"),
    )
    strong.where(F.col("npmi") > tau).write.mode("overwrite").parquet(str(target))
    entries.unpersist()
    numbered.unpersist()
    return {"multiply_adds": _half_of_squares(source)}


def run_duckdb(source: Path, target: Path, tau: float) -> dict[str, Any]:
    """Do the same self-join in DuckDB."""
    import duckdb

    connection = duckdb.connect(config={"threads": CORES, "memory_limit": "12GB"})
    connection.execute(
        f"""
        create temp table queries as select query, row_number() over () as number, sum(purchases) as bought
          from read_parquet('{source}') group by query;
        create temp table entries as select number, hash(product_id) as code, purchases::double as count,
          purchases / sum(purchases) over (partition by product_id) as share
          from read_parquet('{source}') join queries using (query);
        create temp table total as select sum(bought)::double as purchases from queries;
        copy (
          with joined as (
            select a.number as a, b.number as b, sum(a.count * b.share) / any_value(total.purchases) as joint
              from total, entries a join entries b on a.code = b.code and a.number < b.number
              group by a.number, b.number),
          scored as (
            select least(x.query, y.query) as query_a, greatest(x.query, y.query) as query_b,
              ln(joint / (x.bought / total.purchases) / (y.bought / total.purchases)) / -ln(joint) as npmi
              from total, joined join queries x on x.number = a join queries y on y.number = b)
          select * from scored where npmi > {tau}
        ) to '{target}' (format parquet)
        """
    )
    return {"multiply_adds": _half_of_squares(source)}


def run_scipy(source: Path, target: Path, tau: float) -> dict[str, Any]:
    """Multiply the whole matrix by itself in strips on one core, then filter."""
    from scipy import sparse

    names, rows, columns, counts = _encode(source)
    total, bought = counts.sum(), np.bincount(rows, weights=counts)
    sums, p = np.bincount(columns, weights=counts), np.bincount(rows, weights=counts) / counts.sum()
    matrix = sparse.csr_matrix(
        (counts / np.sqrt(sums[columns] * total), (rows, columns)), shape=(len(bought), len(sums))
    )
    across = sparse.csr_matrix(matrix.T)
    found = []
    for start in range(0, len(names), ROWS_AT_ONCE):
        product = (matrix[start : start + ROWS_AT_ONCE] @ across).tocoo()
        a, b = product.row + start, product.col
        half = a < b
        a, b, joint = a[half], b[half], product.data[half]
        npmi = np.log(joint / (p[a] * p[b])) / -np.log(joint)
        strong = npmi > tau
        found.append((a[strong], b[strong], npmi[strong]))
    _write_numbered(target, names, *(np.concatenate(parts) for parts in zip(*found, strict=True)))
    return {"multiply_adds": 2 * _half_of_squares(source)}


def run_topn(source: Path, target: Path, tau: float) -> dict[str, Any]:
    """Let sparse_dot_topn apply the threshold to the scaled rows, on all cores."""
    from scipy import sparse
    from sparse_dot_topn import sp_matmul_topn

    names, rows, columns, counts = _encode(source)
    total, p = counts.sum(), np.bincount(rows, weights=counts) / counts.sum()
    sums = np.bincount(columns, weights=counts)
    data = counts / (np.sqrt(sums[columns] * total) * p[rows] ** (1 / (1 + tau)))
    matrix = sparse.csr_matrix((data, (rows, columns)), shape=(len(p), len(sums)))
    product = sp_matmul_topn(matrix, sparse.csr_matrix(matrix.T), top_n=PARTNERS, threshold=1 - 1e-9, n_threads=CORES)
    product = product.tocoo()
    half = product.row < product.col
    a, b, dot = product.row[half], product.col[half], product.data[half]
    joint = dot * (p[a] * p[b]) ** (1 / (1 + tau))
    npmi = np.log(joint / (p[a] * p[b])) / -np.log(joint)
    strong = npmi > tau
    _write_numbered(target, names, a[strong], b[strong], npmi[strong])
    return {"multiply_adds": 2 * _half_of_squares(source)}


SPARK = {
    "pruned": run_pruned,
    "pruned_shuffled": lambda *given: run_pruned(*given, shuffled=True),
    "self_join": lambda *given: run_self_join(*given, join="merge"),
    "self_join_hash": lambda *given: run_self_join(*given, join="shuffle_hash"),
    "self_join_broadcast": lambda *given: run_self_join(*given, join="broadcast"),
}
PLAIN = {"duckdb": run_duckdb, "scipy": run_scipy, "sparse_dot_topn": run_topn}


def run_contender(name: str, source: Path, target: Path, tau: float) -> dict[str, Any]:
    """Start up, do the work once, and return the seconds of both with the contender's own counters."""
    started = time.monotonic()
    if name not in SPARK:
        __import__({"duckdb": "duckdb", "scipy": "scipy.sparse", "sparse_dot_topn": "sparse_dot_topn"}[name])
        ready = time.monotonic()
        counters = PLAIN[name](source, target, tau)
        return {"start": ready - started, "work": time.monotonic() - ready, **counters}
    with tempfile.TemporaryDirectory() as folder:
        session = _open_spark(Path(folder))
        small = write_purchases(Path(folder), "shop", WARM_PAIRS)
        SPARK[name](session, small, Path(folder) / "warm", tau)
        ready, before = time.monotonic(), _spilled(Path(folder))
        counters = SPARK[name](session, source, target, tau)
        done = time.monotonic()
        session.stop()
        spilled = _spilled(Path(folder)) - before
    return {"start": ready - started, "work": done - ready, "spilled": spilled, **counters}


def measure(name: str, source: Path, target: Path, tau: float) -> dict[str, Any]:
    """Run a contender in a process of its own; adds the peak memory of its processes."""
    output, peaks = run_watched([sys.executable, __file__, "--contender", name, str(source), str(target), str(tau)])
    return {"contender": name, **json.loads(output.splitlines()[-1]), **peaks}


def check(reference: Path, other: Path) -> tuple[int, float]:
    """Return the number of pairs and the largest difference of scores; ends the run where the pair sets differ."""
    keys, scores = _read_pairs(reference)
    found, others = _read_pairs(other)
    if not np.array_equal(keys, found):
        raise SystemExit(f"{other}: {len(found)} pairs, {len(keys)} in {reference}: not the same pairs")
    worst = float(np.abs(scores - others).max(initial=0))
    if worst > 1e-9:
        raise SystemExit(f"{other}: a score differs by {worst}")
    return len(keys), worst


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300_000)
    parser.add_argument("--tau", type=float, nargs="+", default=[0.5])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=["self_join_hash", "self_join_broadcast"])
    parser.add_argument("--curve", type=int, nargs="+", help="only the pruned product, on these numbers of pairs")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "gram-benchmark")
    parser.add_argument("--contender", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name, source, target, tau = options.contender
        print(json.dumps(run_contender(name, Path(source), Path(target), float(tau))))
        return
    _print_head()
    if options.curve:
        for pairs in options.curve:
            _print_row("shop", pairs, options.tau[0], _curve_point(options.folder, pairs, options.tau[0]))
        return
    for shape in options.shapes:
        for tau in options.tau:
            _compare(shape, tau, options)


def _compare(shape: str, tau: float, options: argparse.Namespace) -> None:
    source = write_purchases(options.folder, shape, options.pairs)
    names = [name for name in (*SPARK, *PLAIN) if name == "pruned" or name not in options.skip]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            runs[name].append(measure(name, source, options.folder / f"{name}.out", tau))
    reference = options.folder / f"{'scipy' if 'scipy' in names else names[-1]}.out"
    for name in names:
        kept, worst = check(reference, options.folder / f"{name}.out")
        middle = min(runs[name], key=lambda run: abs(run["work"] - statistics.median(r["work"] for r in runs[name])))
        ratios = [run["work"] / ours["work"] for run, ours in zip(runs[name], runs["pruned"], strict=True)]
        _print_row(
            shape, options.pairs, tau, middle | {"kept": kept, "worst": worst, "ratio": statistics.median(ratios)}
        )


def _curve_point(folder: Path, pairs: int, tau: float) -> dict[str, Any]:
    source = write_purchases(folder, "shop", pairs)
    found = measure("pruned", source, folder / "pruned.out", tau)
    return found | {"kept": len(_read_pairs(folder / "pruned.out")[0])}


def _print_head() -> None:
    print_machine("pyspark", "scipy", "numpy", "pyarrow", "duckdb", "sparse_dot_topn")
    print(f"Spark local[{CORES}], {MEMORY} heap")
    print(
        f"{'shape':8} {'pairs':>10} {'tau':>4} {'contender':19} {'work s':>8} {'start s':>8} {'x pruned':>8} "
        f"{'multiply-adds':>15} {'kept':>11} {'|dNPMI|':>8} {'JVM GiB':>8} {'other GiB':>9} {'spilled MiB':>11}"
    )


def _print_row(shape: str, pairs: int, tau: float, run: dict[str, Any]) -> None:
    print(
        f"{shape:8} {pairs:>10,} {tau:>4} {run['contender']:19} {run['work']:8.1f} {run['start']:8.1f} "
        f"{run.get('ratio', 1):8.2f} {run['multiply_adds']:15,} {run['kept']:11,} {run.get('worst', 0):8.0e} "
        f"{run.get('java', 0) / 2**30:8.2f} {run.get('python', 0) / 2**30:9.2f} {run.get('spilled', 0) / 2**20:11,.0f}",
        flush=True,
    )


def _open_spark(folder: Path) -> Any:
    from indexer.job_config import SparkConfig
    from spark.session import open_session

    events = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": folder.as_uri()}
    events |= {"spark.eventLog.rolling.enabled": "false", "spark.eventLog.compress": "false"}
    return open_session(SparkConfig(master=f"local[{CORES}]", driver_memory=MEMORY, conf=events), "gram")


def _spilled(folder: Path) -> int:
    """Add up what tasks wrote to disk for want of memory, from Spark's event log."""
    spilled = 0
    for file in folder.glob("local-*"):
        for line in file.read_text().splitlines():
            if '"SparkListenerTaskEnd"' in line:
                spilled += (json.loads(line).get("Task Metrics") or {}).get("Disk Bytes Spilled", 0)
    return spilled


def _encode(source: Path) -> tuple[list[str], Any, Any, Any]:
    table = pq.read_table(source)
    queries = table["query"].combine_chunks().dictionary_encode()
    products = table["product_id"].combine_chunks().dictionary_encode()
    rows, columns = (side.indices.to_numpy().astype(np.int64) for side in (queries, products))
    return queries.dictionary, rows, columns, table["purchases"].to_numpy().astype(np.float64)


def _write_numbered(target: Path, names: Any, a: Any, b: Any, npmi: Any) -> None:
    one, other = names.take(pa.array(a)), names.take(pa.array(b))
    turn = pa.compute.greater(one, other)
    columns = [pa.compute.if_else(turn, other, one), pa.compute.if_else(turn, one, other), pa.array(npmi)]
    pq.write_table(pa.table(columns, names=["query_a", "query_b", "npmi"]), target)


def _read_pairs(target: Path) -> tuple[Any, Any]:
    """Return the pairs as sorted numbers, taken from the queries' names, and their scores in that order."""
    table = pq.read_table(target, columns=["query_a", "query_b", "npmi"])
    table = table.filter(pa.compute.is_valid(table["query_a"]))
    start = len("query number ")
    a, b = (
        pa.compute.utf8_slice_codeunits(table[name], start).cast(pa.int64()).to_numpy()
        for name in ("query_a", "query_b")
    )
    keys = np.minimum(a, b) * 2**32 + np.maximum(a, b)
    order = np.argsort(keys)
    return keys[order], table["npmi"].to_numpy()[order]


def _half_of_squares(source: Path) -> int:
    """Return sum_k n_k (n_k - 1) / 2, the multiply-adds of every way that forms all pairs once."""
    counts = pq.read_table(source, columns=["product_id"])["product_id"].value_counts().field("counts").to_numpy()
    return int((counts.astype(np.int64) * (counts - 1) // 2).sum())


if __name__ == "__main__":
    main()
