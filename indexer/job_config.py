"""What the Spark jobs count and choose, one frozen dataclass per section of `shop.toml`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from indexer.input_config import MANY, require, require_one_of, require_ranges
from indexer.redaction import hide_forms

MEMORY = re.compile("[1-9][0-9]*[kKmMgGtT]")
MASTER = re.compile(r"local(\[([1-9][0-9]*|\*)( *, *[1-9][0-9]*)?\])?|local-cluster\[[0-9, ]+\]|yarn|(spark|k8s)://\S+")
CREDENTIALS = re.compile(r"secret|password|token|access\.?key|(encryption|account|private)\.key($|\.)", re.I)
"""In the names of Spark settings whose values do not belong into a configuration, which releases carry."""

SCRIPTS = (
    *("Arabic", "Armenian", "Bengali", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek", "Gujarati"),
    *("Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao", "Latin"),
    *("Malayalam", "Mongolian", "Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu", "Thai", "Tibetan"),
)
"""Unicode scripts by which queries can be chosen."""


@dataclass(frozen=True, kw_only=True)
class GramConfig:
    """Products of the purchase counts by themselves: their blocks, and the Gram matrices that become tables."""

    block_entries: int = 4_000_000
    """Pairs of query and product in one block; a task holds two blocks, about 250 bytes a pair. A night of no more
    pairs is not sent about: each task reads it from the files, which takes 100 bytes a pair of the night."""
    sides: tuple[str, ...] = ()
    """Tables to write, query or product; the query pairs are found without them."""
    top_k: int = 100
    """Partners kept per query or product, by their joint probability; 0 keeps every pair that shares one."""

    def __post_init__(self) -> None:
        for side in self.sides:
            require_one_of("sides", side, ("query", "product"))
        require_ranges(self, block_entries=(1, MANY), top_k=(0, MANY))


@dataclass(frozen=True, kw_only=True)
class NpmiConfig:
    """Query pairs that mean the same (KD-Boost equation 2)."""

    variant: str = "walk"
    """Joint distribution: walk, offdiag, gramnorm, or literal (the form as printed, which is unbounded)."""
    tau: float = 0.5
    """Pairs are kept above this NPMI, strictly; the paper gives no value."""
    min_support: int = 20
    """Least sum over products of the smaller of the two counts."""
    min_shared_products: int = 1
    top_k: int = 10
    """Partners kept per query."""
    force_literal: bool = False
    calibration_tau: float = 0.2
    """`calibrate_npmi` looks at the pairs above this NPMI; lower takes longer."""
    target_agreement: float = 0.95
    """Share of pairs with related taxonomy nodes that a calibrated tau must reach."""

    def __post_init__(self) -> None:
        require_one_of("variant", self.variant, ("walk", "offdiag", "gramnorm", "literal"))
        require_ranges(self, calibration_tau=(-0.9, 0.99), target_agreement=(0, 1))
        require(-1 <= self.tau < 1, f"tau: expected -1 up to below 1, found {self.tau}")
        require_ranges(self, min_support=(0, 2**62), min_shared_products=(1, MANY), top_k=(1, MANY))
        require(
            self.variant != "literal" or self.force_literal,
            "variant: `literal` has no upper bound, so a threshold means nothing; set force_literal to use it",
        )


@dataclass(frozen=True, kw_only=True)
class NodesConfig:
    """Which taxonomy nodes a query belongs to."""

    label_mass: float = 0.9
    """A query's labels are its smallest set of nodes that holds this share of its purchases."""
    min_top_share: float = 0.5
    """A query whose first node holds less has no labels."""
    prior_purchases: float = 5.0
    """confidence = share * n / (n + prior): little evidence counts for less."""
    smoothing_purchases: float = 5.0
    """Weight of the whole shop's purchases at every branching of a query's part of the tree; 0 smooths nothing."""
    leaf_names: bool = False
    """Whether a category that is no id and no full path is matched by its last name, where one node alone has it."""
    merge: str = "classifier"
    """Queries with purchases and classes: classifier (its nodes replace), confident (the surer side) or mix."""
    classifier_weight: float = 0.5
    """Part of the classifier in a mix."""

    def __post_init__(self) -> None:
        require_ranges(self, label_mass=(0, 1), min_top_share=(0, 1), prior_purchases=(0, MANY))
        require_ranges(self, smoothing_purchases=(0, MANY), classifier_weight=(0, 1))
        require_one_of("merge", self.merge, ("classifier", "confident", "mix"))


@dataclass(frozen=True, kw_only=True)
class NegativesConfig:
    """Query pairs that look alike but share no node (KD-Boost section 3.2)."""

    min_similarity: float = 0.3
    """Least cosine of the tf-idf vectors of words and character trigrams."""
    max_per_query: int = 10
    max_token_queries: int = 1_000
    """Words and trigrams found in more queries than this form no pair; they are counted."""
    encoder: str = ""
    """Folder of an exported encoder: a query's nearest by it look alike, too, from the same cosine; empty: none."""
    encoder_neighbours: int = 50

    def __post_init__(self) -> None:
        require_ranges(self, min_similarity=(0, 1), max_per_query=(1, MANY), max_token_queries=(2, MANY))
        require_ranges(self, encoder_neighbours=(1, 10_000))


@dataclass(frozen=True, kw_only=True)
class CuratedConfig:
    """Queries worth answering a reformulation with (KD-Boost section 5.2, pre-curated query cache)."""

    min_purchases: int = 20
    """Least purchases after a query and its variants."""
    min_products: int = 1
    max_queries: int = 1_000_000
    """Kept are, for each taxonomy node, the query with most purchases in it, then the most bought of the others."""
    max_characters: int = 200
    merge_variants: bool = True
    """Merge queries that differ in the order, number (English), spacing or hyphens of their words."""
    scripts: tuple[str, ...] = ()
    """Unicode scripts, such as Latin, that all letters of a query must belong to; empty accepts any."""
    reject_personal_data: bool = True
    """Reject queries with an e-mail address, a telephone number or a payment card's number."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.scripts) - set(SCRIPTS))
        require(not unknown, f"scripts: expected names among {', '.join(SCRIPTS)}, found {', '.join(unknown)}")
        require_ranges(self, min_purchases=(0, 2**62), min_products=(1, MANY), max_queries=(1, MANY))
        require_ranges(self, max_characters=(1, 1_024))


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Neighbours in the graph of queries and products (BERM, arXiv 2210.01701)."""

    neighbours: int = 10
    """Neighbours kept per node and order, and followed at each step of a walk."""

    def __post_init__(self) -> None:
        require_ranges(self, neighbours=(1, 1_000))


@dataclass(frozen=True, kw_only=True)
class SparkConfig:
    """The Spark session a job starts when it is not given one by spark-submit."""

    master: str = "local[*]"
    driver_memory: str = "2g"
    shuffle_partitions: int = 8
    java_options: str = ""
    """Options of the driver's Java. `-XX:TieredStopAtLevel=1 -XX:+UseSerialGC` halves the time of a small shop."""
    conf: Mapping[str, str] = field(default_factory=dict)
    """Any other setting of Spark, such as `"spark.executor.memory" = "4g"`; no credentials."""

    def __post_init__(self) -> None:
        require_ranges(self, shuffle_partitions=(1, 10**6))
        require(
            MEMORY.fullmatch(self.driver_memory) is not None,
            f"driver_memory: expected a number with k, m, g or t, such as 4g, found {self.driver_memory!r}",
        )
        require(
            MASTER.fullmatch(self.master) is not None,
            f"master: expected local[*], local[N], yarn, spark://... or k8s://..., found {self.master!r}",
        )
        require(
            hide_forms(self.java_options) == self.java_options,
            "java_options: has a credential; leave it to the standard AWS chain or to spark-submit",
        )
        for key, value in self.conf.items():
            require(key.startswith("spark."), f"conf: expected settings that begin with `spark.`, found {key}")
            require(
                # The name of a key that a service keeps is none.
                value.startswith("arn:") or not (CREDENTIALS.search(key) or hide_forms(value) != value),
                f"conf: {key} is a credential, or has one; leave it to the standard AWS chain or to spark-submit",
            )
