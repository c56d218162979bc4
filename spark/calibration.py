"""Where to set tau: how often the taxonomy agrees with the query pairs of each NPMI decile (notes in docs/npmi.md)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

DECILES = 10
CELLS = 10_000
"""Deciles end at multiples of 1 / CELLS: counting pairs by cell finds them exactly, whatever the partitioning."""
DIGITS = 6
"""Means are rounded, because the last digits depend on the order in which Spark adds."""


@dataclass(frozen=True, kw_only=True)
class Decile:
    """A tenth of the pairs, more or less: pairs of one cell stay together, and there may be fewer than ten."""

    decile: int
    """1 holds the lowest NPMI."""
    npmi_above: float
    npmi_up_to: float
    pairs: int
    mean_npmi: float


@dataclass(frozen=True, kw_only=True)
class DecileAgreement(Decile):
    """A row of NPMI_CALIBRATION."""

    sampled: int
    labelled: int
    """Sampled pairs of two queries with confident nodes."""
    agreeing: int
    """Labelled pairs whose nodes are related."""
    agreement: float | None
    """agreeing / labelled; None without a labelled pair."""
    labelled_apart: int
    """Sampled pairs of two queries with confident nodes by the products that they do not share."""
    agreeing_apart: int
    agreement_apart: float | None
    agreement_above: float | None
    """The agreement of all pairs above `npmi_above`: the mean over the deciles, weighted by their pairs."""


def count_cells(pairs: DataFrame) -> DataFrame:
    """Return (cell, pairs, mean_npmi): cell c holds NPMI above (c - 1) / CELLS up to c / CELLS."""
    cells = pairs.groupBy(_cell().alias("cell"))
    return cells.agg(F.count("*").alias("pairs"), F.avg("npmi").alias("mean_npmi"))


def split_deciles(cells: Mapping[int, tuple[int, float]], *, above: float) -> list[Decile]:
    """Cut the pairs into tenths in order of NPMI; the first starts at `above`.

    `cells` has the pairs of each cell and their mean NPMI.
    """
    total, before = sum(pairs for pairs, _ in cells.values()), 0
    tenths: dict[int, list[int]] = {}
    for cell in sorted(cells):
        tenths.setdefault(before * DECILES // total + 1, []).append(cell)
        before += cells[cell][0]
    deciles = []
    for number, held in sorted(tenths.items()):
        pairs = sum(cells[cell][0] for cell in held)
        mean = math.fsum(cells[cell][0] * cells[cell][1] for cell in held) / pairs
        end = held[-1] / CELLS
        deciles.append(
            Decile(decile=number, npmi_above=above, npmi_up_to=end, pairs=pairs, mean_npmi=round(mean, DIGITS))
        )
        above = end
    return deciles


def place_pairs(pairs: DataFrame, deciles: Sequence[Decile]) -> DataFrame:
    """Add each pair's `decile`."""
    ends = [(round(decile.npmi_up_to * CELLS), decile.decile) for decile in deciles]
    number = F.coalesce(*[F.when(_cell() <= end, F.lit(decile)) for end, decile in ends])
    return pairs.withColumn("decile", number)


def sample_pairs(placed: DataFrame, *, size: int) -> DataFrame:
    """Keep at most `size` pairs per decile, those with the smallest hash, and add their `place` in that order."""
    by_hash = Window.partitionBy("decile").orderBy(F.xxhash64("query_a", "query_b"), "query_a", "query_b")
    columns = ("query_a", "query_b", "npmi", "decile", F.row_number().over(by_hash).alias("place"))
    return placed.select(*columns).where(F.col("place") <= size)


def shuffle_pairs(sample: DataFrame) -> DataFrame:
    """Return pairs of queries that do not belong together: each pair's query_a with query_b of the next pair."""
    in_order = Window.orderBy("decile", "place")
    following = F.lead("query_b").over(in_order)
    return sample.select("query_a", following.alias("query_b")).where("query_b IS NOT NULL AND query_a <> query_b")


def part_pairs(sample: DataFrame) -> DataFrame:
    """Return the sample with each query known by its pair and side, as `apart_nodes` knows it."""
    rest = [name for name in sample.columns if name not in ("query_a", "query_b")]
    return sample.select(_side("a").alias("query_a"), _side("b").alias("query_b"), *rest)


def apart_nodes(sample: DataFrame, purchases: DataFrame, product_nodes: DataFrame) -> DataFrame:
    """Return (query, node_id, share) by the products of each query that the other query of its pair does not have.

    Queries are a pair because of products they share; only the others can bear witness to what they mean.
    """
    sides = [
        sample.select(
            _side(own).alias("side"), F.col(f"query_{own}").alias("query"), F.col(f"query_{other}").alias("to")
        )
        for own, other in (("a", "b"), ("b", "a"))
    ]
    bought = sides[0].unionByName(sides[1]).join(purchases, on="query", how="inner")
    theirs = purchases.select(F.col("query").alias("to"), "product_id")
    placed = bought.join(theirs, on=["to", "product_id"], how="left_anti").join(
        product_nodes.select("product_id", "node_id", "share"), on="product_id", how="inner"
    )
    part = F.sum(F.col("purchases") * F.col("share"))
    per_node = placed.groupBy(F.col("side").alias("query"), "node_id").agg(part.alias("part"))
    whole = F.sum("part").over(Window.partitionBy("query"))
    return per_node.select("query", "node_id", (F.col("part") / whole).alias("share"))


def count_agreement(related: DataFrame, *by: str) -> DataFrame:
    """Count the pairs as `sampled`, those with a known `related` as `labelled`, and the related as `agreeing`."""
    return related.groupBy(*by).agg(
        F.count("*").alias("sampled"),
        F.count("related").alias("labelled"),
        F.count_if(F.col("related")).alias("agreeing"),
    )


def measure_deciles(
    deciles: Sequence[Decile], counts: Mapping[int, Mapping[str, int]], apart: Mapping[int, Mapping[str, int]]
) -> list[DecileAgreement]:
    """Return the rows of NPMI_CALIBRATION, lowest NPMI first.

    `counts` has what `count_agreement` found of each decile, `apart` the same by products that are not shared.
    """
    rows: list[DecileAgreement] = []
    weighted, weight = 0.0, 0
    for decile in reversed(deciles):
        found = counts[decile.decile]
        agreement = share_of(found)
        if agreement is not None:
            weighted, weight = weighted + agreement * decile.pairs, weight + decile.pairs
        above = round(weighted / weight, DIGITS) if weight else None
        rows.append(
            DecileAgreement(
                **vars(decile),
                **found,
                agreement=agreement,
                labelled_apart=apart[decile.decile]["labelled"],
                agreeing_apart=apart[decile.decile]["agreeing"],
                agreement_apart=share_of(apart[decile.decile]),
                agreement_above=above,
            )
        )
    return rows[::-1]


def share_of(counts: Mapping[str, int]) -> float | None:
    """Return agreeing / labelled, None without a labelled pair."""
    return round(counts["agreeing"] / counts["labelled"], DIGITS) if counts["labelled"] else None


def find_tau(rows: Sequence[DecileAgreement], *, target: float) -> float | None:
    """Return the lowest `npmi_above` whose pairs above it reach the target, None where none does."""
    reached = [row.npmi_above for row in rows if row.agreement_above is not None and row.agreement_above >= target]
    return min(reached, default=None)


def _side(name: str) -> Column:
    return F.struct("query_a", "query_b", F.lit(name).alias("side"))


def _cell() -> Column:
    return F.ceil(F.round(F.col("npmi") * CELLS, DIGITS)).cast("int")
