"""Generate a shop with known answers: synonyms that must be found, look-alikes that must not, planted dirt.

Shoppers choose queries by a Zipf law. A click model turns a query into purchases: a product of the kind asked for
is bought by its popularity, more if the color asked for is right; a small share of purchases is noise.
"""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.demo.vocabulary import BRANDS, COLORS, FEATURES, LOOK_ALIKES, SIZES, TYPOS, Kind, make_kinds

GRADES = ("E", "S", "I")
FIRST_DAY = date(2026, 1, 1)

SMALL_DISTILL = """\
epochs = 2
switch_epoch = 1
recovery_epochs = 1
unlabelled_products = 500
batch_size = 64
learning_rate = 1e-4
"""
MEDIUM_DISTILL = """\
epochs = 3
switch_epoch = 1
recovery_epochs = 2
batch_size = 128
"""
LARGE_DISTILL = """\
epochs = 2
switch_epoch = 1
recovery_epochs = 1
batch_size = 256
"""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Size and randomness of the generated shop."""

    purposes: int = 0
    """Purposes that make more kinds of each kind."""
    products_per_kind: int = 45
    colors_per_kind: int = 3
    """Queries with a color, for each kind."""
    purchases: int = 400_000
    days: int = 7
    zipf_exponent: float = 0.7
    noise_share: float = 0.03
    labelled_kinds: float = 1.0
    """Part of the kinds whose queries are labelled; purchases and taxonomy know all."""
    labels_per_query: int = 6
    label_noise: float = 0.0
    """Part of the labels that say a grade drawn by chance, as people do who label in a hurry."""
    distill: str = SMALL_DISTILL
    """Settings of the section `distill` in the shop's file."""
    seed: int = 7


SHOPS: Mapping[str, DemoConfig] = MappingProxyType(
    {
        "small": DemoConfig(),
        "medium": DemoConfig(
            purposes=3,
            products_per_kind=30,
            colors_per_kind=6,
            purchases=1_500_000,
            labelled_kinds=0.25,
            labels_per_query=32,
            label_noise=0.1,
            distill=MEDIUM_DISTILL,
        ),
        "large": DemoConfig(
            purposes=12,
            products_per_kind=15,
            colors_per_kind=6,
            purchases=4_000_000,
            labels_per_query=10,
            label_noise=0.1,
            distill=LARGE_DISTILL,
        ),
    }
)
"""Shops by size: one for a first look, and two with 13,000 and 50,000 labels to compare trainings on."""


@dataclass(frozen=True)
class DemoProduct:
    """A product, with what its title is made of."""

    product_id: str
    title: str
    brand: str
    color: str
    kind: Kind


@dataclass(frozen=True)
class DemoQuery:
    """A query and what the shopper means by it."""

    text: str
    kind: Kind
    color: str | None = None
    tail: bool = False


@dataclass(frozen=True)
class DemoAnswers:
    """What the jobs must make of the shop."""

    synonyms: list[tuple[str, str]]
    """Query pairs that mean the same; each smaller query first."""
    look_alikes: list[tuple[str, str]]
    """Query pairs that share words and must never count as similar."""
    products: int
    """Products that can be indexed."""
    rejects: dict[str, dict[str, int]]
    """Table -> reason -> planted rows."""


def write_demo_shop(folder: Path, config: DemoConfig | None = None) -> DemoAnswers:
    """Write catalogue, taxonomy, purchases, labels, answers and `shop.toml` into the folder."""
    config = config or DemoConfig()
    generator = np.random.default_rng(config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    products = make_products(generator, config)
    queries = make_queries(generator, config)
    _write_catalogue(folder / "catalogue.jsonl.gz", products)
    _write_rows(folder / "taxonomy.csv", ",", ("node_id", "parent_id", "name"), _taxonomy_rows(config))
    _write_purchases(folder / "purchases.parquet", list(make_purchases(generator, config, products, queries)))
    labels = make_labels(generator, config, products, queries)
    _write_rows(folder / "labels.tsv", "\t", ("query", "product_id", "label"), labels)
    answers = _known_answers(products, config)
    (folder / "answers.json").write_text(json.dumps(asdict(answers), indent=1) + "\n")
    (folder / "shop.toml").write_text(SHOP_TOML.format(distill=config.distill.rstrip()))
    return answers


def make_products(generator: np.random.Generator, config: DemoConfig) -> list[DemoProduct]:
    """Make the catalogue; one title in ten uses the kind's second name."""
    products: list[DemoProduct] = []
    for kind in make_kinds(config.purposes):
        for _ in range(config.products_per_kind):
            name = kind.names[1] if len(kind.names) > 1 and generator.random() < 0.1 else kind.names[0]
            brand, color, feature, size = (str(generator.choice(words)) for words in (BRANDS, COLORS, FEATURES, SIZES))
            title = f"{brand} {feature} {color} {name}, {size}"
            products.append(DemoProduct(f"P{len(products):06d}", title, brand, color, kind))
    return products


def make_queries(generator: np.random.Generator, config: DemoConfig) -> list[DemoQuery]:
    """Make names, misspelt names, and names with a color; the last two are tail queries."""
    queries: list[DemoQuery] = []
    for kind in make_kinds(config.purposes):
        queries.extend(DemoQuery(name, kind) for name in kind.names)
        queries.extend(DemoQuery(TYPOS[name], kind, tail=True) for name in kind.names if name in TYPOS)
        for color in generator.choice(COLORS, size=config.colors_per_kind, replace=False):
            queries.append(DemoQuery(f"{color} {generator.choice(kind.names)}", kind, str(color), tail=True))
    return queries


def make_purchases(
    generator: np.random.Generator, config: DemoConfig, products: list[DemoProduct], queries: list[DemoQuery]
) -> Iterator[tuple[str, str, int, int]]:
    """Yield (query, product_id, purchases, day) for every pair bought on a day."""
    order = sorted(generator.permutation(len(queries)), key=lambda at: queries[at].tail)
    traffic = np.empty(len(queries))
    traffic[order] = np.arange(1.0, len(queries) + 1) ** -config.zipf_exponent
    popularity = generator.pareto(2.0, len(products)) + 0.5
    leaves = np.array([product.kind.leaf for product in products])
    colors = np.array([product.color for product in products])
    for query, share in zip(queries, traffic / traffic.sum(), strict=True):
        right_color = (colors == query.color) if query.color else np.ones(len(products), dtype=np.bool_)
        appeal = popularity**2 * (leaves == query.kind.leaf) * np.where(right_color, 1.0, 0.05)
        chances = (1 - config.noise_share) * appeal / appeal.sum() + config.noise_share / len(products)
        counts = generator.multinomial(round(config.purchases * share), chances)
        for at in np.flatnonzero(counts):
            per_day = generator.multinomial(counts[at], np.full(config.days, 1 / config.days))
            for day in np.flatnonzero(per_day):
                yield query.text, products[at].product_id, int(per_day[day]), int(day)


def make_labels(
    generator: np.random.Generator, config: DemoConfig, products: list[DemoProduct], queries: list[DemoQuery]
) -> list[tuple[str, str, str]]:
    """Label products of each query: right kind and color exact, right kind substitute, look-alike kind irrelevant."""
    kinds = make_kinds(config.purposes)
    words = {kind.leaf: set(kind.names[0].split()) for kind in kinds}
    by_leaf: dict[str, list[DemoProduct]] = {}
    for product in products:
        by_leaf.setdefault(product.kind.leaf, []).append(product)
    labels: list[tuple[str, str, str]] = []
    labelled = set(kinds)
    if config.labelled_kinds < 1:
        labelled = {kinds[at] for at in generator.permutation(len(kinds))[: round(config.labelled_kinds * len(kinds))]}
    for query in (query for query in queries if query.kind in labelled):
        same = generator.permutation(len(by_leaf[query.kind.leaf]))[: config.labels_per_query // 2]
        other_kinds = [kind for kind in kinds if kind != query.kind]
        near = [kind for kind in other_kinds if words[kind.leaf] & words[query.kind.leaf]]
        near = near or [kind for kind in other_kinds if kind.department == query.kind.department]
        chosen = [by_leaf[query.kind.leaf][at] for at in same]
        for at in range(config.labels_per_query // 2):
            pool = near if near and at % 2 else other_kinds
            kind = pool[int(generator.integers(len(pool)))]
            chosen.append(by_leaf[kind.leaf][int(generator.integers(len(by_leaf[kind.leaf])))])
        labels.extend((query.text, product.product_id, _label(query, product)) for product in dict.fromkeys(chosen))
    if not config.label_noise:
        return labels
    wrong = generator.random(len(labels)) < config.label_noise
    drawn = generator.choice(GRADES, len(labels))
    return [
        (query, product, str(grade) if hurried else label)
        for (query, product, label), hurried, grade in zip(labels, wrong, drawn, strict=True)
    ]


def _label(query: DemoQuery, product: DemoProduct) -> str:
    if product.kind != query.kind:
        return "I"
    return "E" if query.color in (None, product.color) else "S"


def _taxonomy_rows(config: DemoConfig) -> list[tuple[str, str, str]]:
    kinds = make_kinds(config.purposes)
    departments = dict.fromkeys(kind.department for kind in kinds)
    leaves = [(kind.leaf, kind.department, kind.leaf) for kind in kinds]
    return [*((name, "", name) for name in departments), *leaves]


def _known_answers(products: list[DemoProduct], config: DemoConfig) -> DemoAnswers:
    synonyms = {pair for kind in make_kinds(config.purposes) for pair in combinations(sorted(kind.names), 2)}
    return DemoAnswers(
        synonyms=[(first, second) for first, second in sorted(synonyms)],
        look_alikes=[(first, second) for first, second in sorted(tuple(sorted(pair)) for pair in LOOK_ALIKES)],
        products=len(products),
        rejects={
            "CATALOGUE": {"title_missing": 2, "product_id_missing": 1},
            "RAW_PURCHASES": {"purchases_range": 3, "query_missing": 2},
        },
    )


def _write_catalogue(path: Path, products: list[DemoProduct]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "product_id": product.product_id,
            "title": product.title,
            "brand": product.brand,
            "product_type": product.kind.leaf,
            "color": product.color,
            "node_ids": [product.kind.leaf],
        }
        for product in products
    ]
    rows[100:100] = [{"product_id": "BAD-1", "title": None}, {"product_id": "BAD-2", "title": "  "}, {"title": "no id"}]
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def _write_purchases(path: Path, rows: list[tuple[str, str, int, int]]) -> None:
    rows += [("sofa", "P000001", 0, 0), ("sofa", "P000002", -4, 0), ("desk", "P000100", -1, 1)]
    rows += [("", "P000001", 9, 0), ("   ", "P000002", 9, 0)]
    columns = {
        "query": pa.array([row[0] for row in rows]),
        "product_id": pa.array([row[1] for row in rows]),
        "purchases": pa.array([row[2] for row in rows], pa.int64()),
        "event_date": pa.array([FIRST_DAY + timedelta(days=row[3]) for row in rows], pa.date32()),
    }
    pq.write_table(pa.table(columns), path)


def _write_rows(path: Path, delimiter: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


SHOP_TOML = """\
# The generated shop. Every key that is left out keeps its default.
[shop]
name = "demo"
work = "work"
release = "release"

[purchases]
path = "purchases.parquet"

[catalogue]
path = "catalogue.jsonl.gz"

[taxonomy]
path = "taxonomy.csv"

[labels]
path = "labels.tsv"

[npmi]
tau = 0.45

[spark]
driver_memory = "1g"
shuffle_partitions = 2
java_options = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

[distill]
{distill}

[index]
shards = 2
"""
