"""How indexes are built, and what a release must hold, one frozen dataclass per section of `shop.toml`."""

from dataclasses import dataclass

from indexer.input_config import MANY, require, require_one_of, require_ranges

UNCHOSEN_EF_SEARCH = 128
"""In index files, and for searches of no release."""
MAX_EF = 1 << 20
"""Most candidates that a search or the making of a graph looks at: each takes memory for so many."""
MAX_RECALL_QUERIES = 100_000
"""Each takes some 16 KB of every kept probe."""

REUSE = ("all", "vectors", "none")
"""What a build uses again of the live release: shards and vectors, vectors alone (compaction), or nothing."""


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Sharded FAISS HNSW indexes (KD-Boost section 5.2: M = 64, efConstruction = 256)."""

    m: int = 64
    ef_construction: int = 256
    graph_dimensions: int = 192
    """Numbers of one byte that stand for a vector while the graph of a shard of 10,000 rows or more is made, where they
    keep nine tenths of the vectors' squared length; a shard that does not reach its gates so is made again on the
    vectors, and 0 makes all on them."""
    ef_search: int = 0
    """Candidates that a search looks at (efSearch). 0 takes for each release the fewest of a ladder from 16 to 512 that
    reach the target recalls; the manifest names it."""
    target_recall_10: float = 0.98
    """Recall that a chosen `ef_search` reaches over all shards and in each, or that of the gates where it is more."""
    target_recall_100: float = 0.95
    storage: str = "flat"
    """Vectors in the index: flat (float32), sqfp16 or sq8."""
    shards: int = 0
    """Base shards per collection; 0 means as few as `max_shard_rows` allows, or those that are live, up to twice as
    many."""
    max_shard_rows: int = 200_000
    """Bounds the memory of a build: about (8 d + 8 m + 300) bytes a row, or 12 d where no codes are used."""
    precision: str = "fp32"
    """Encoder that embeds and is released: fp32 or int8."""
    texts: bool = True
    """Whether the release carries product titles beside the ids (query texts always)."""
    threads: int = 0
    batch_tokens: int = 512
    """Upper bound on the tokens of one encoder batch; an int8 encoder takes each text alone."""
    max_deltas: int = 10
    """Shards of one night's changes beside the base shards; when there are so many, and half as many would hold their
    rows, tonight's takes them in. 0 makes no new ones: every shard with a change is built anew."""
    max_stale_share: float = 0.5
    """A base shard is built anew when its dead rows and those of its ids in deltas are more of its rows than its limit.
    That of the first shard is half of this, those of the others lie between half and all, so that not all are built in
    one night."""
    kept_probes: int = 2
    """Kept base shards whose recall is measured, others each night. A kept delta is measured with the base shard that
    has its number modulo theirs; what is built is always measured."""
    recall_queries: int = 1_000
    memory_limit_gib: float = 0.0
    """A build that is expected to need more memory is refused before it begins; 0 sets no limit."""

    def __post_init__(self) -> None:
        require_ranges(self, m=(2, 512), shards=(0, 512), batch_tokens=(1, 10**6), threads=(0, 1_024))
        require_ranges(self, graph_dimensions=(0, 4_096))
        require_ranges(self, ef_search=(0, MAX_EF), ef_construction=(0, MAX_EF))
        require_ranges(self, max_shard_rows=(1, MANY), recall_queries=(1, MAX_RECALL_QUERIES))
        require_ranges(self, target_recall_10=(0, 1), target_recall_100=(0, 1), memory_limit_gib=(0, MANY))
        require_ranges(self, max_deltas=(0, 256), max_stale_share=(0, 1), kept_probes=(1, MANY))
        require(self.ef_construction >= self.m, f"ef_construction: expected at least m, found {self.ef_construction}")
        require_one_of("storage", self.storage, ("flat", "sqfp16", "sq8"))
        require_one_of("precision", self.precision, ("fp32", "int8"))

    @property
    def stated_ef_search(self) -> int:
        """The efSearch in an index file, and of a search for which no release chose one."""
        return self.ef_search or UNCHOSEN_EF_SEARCH


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """What a release must hold before it goes live."""

    min_recall_10: float = 0.95
    min_recall_100: float = 0.9
    max_norm_error: float = 1e-3
    min_parity_fp32: float = 0.999
    min_parity_int8: float = 0.97
    """Least mean cosine between the torch student and its ONNX export."""
    max_shrink: float = 0.3
    """Share that may be missing against the newest earlier night, of the rows of the catalogue, the taxonomy, the
    classifier's table and each index, and of the nodes with products; 1 accepts any loss."""
    max_growth: float = 1.0
    """Rows that an index may have gained against the newest earlier night, as a share of its rows; judged from 1,000
    rows on."""
    max_exchange: float = 0.3
    """Share of the live ids that may be gone while new ones take their place; judged from 100 rows on."""
    max_hub_share: float = 0.1
    """Share of the sampled queries that may have one and the same row among their first 10; judged where it is at least
    20 times what falls to a row on average (from 2,000 rows on) and at least 20 of the queries (of 200)."""
    min_own_title: float = 0.5
    """Share of 200 rows that a search for their own title finds among the first 10; judged from 50 rows on."""
    min_kept_cosine: float = 0.98
    """Least mean cosine between vectors of the live release and those of the same texts embedded tonight."""
    canaries: int = 200
    """Sampled queries that are asked of the live release, too; 0 asks none and reads nothing of it for them."""
    min_overlap: float = 0.5
    """Least median share of a canary query's first 10 that stays from the live release, by the same encoder."""
    min_overlap_new_encoder: float = 0.1
    """The same where another encoder made the live release."""
    golden: str = ""
    """File, folder or `s3://` address of GOLDEN_QUERIES; empty means that the shop has none."""
    min_golden: float = 1.0
    """Share of the golden queries' products in the catalogue that must be within their ranks."""
    tables_with_rows: tuple[str, ...] = ("QUERY_PAIRS", "CURATED_QUERIES")
    """A Spark job that writes one of these tables without a row is refused."""

    def __post_init__(self) -> None:
        require_ranges(self, max_shrink=(0, 1), max_growth=(0, MANY), max_exchange=(0, 1), max_hub_share=(0, 1))
        require_ranges(self, min_own_title=(0, 1), min_kept_cosine=(-1, 1), canaries=(0, 1_000))
        require_ranges(self, min_overlap=(0, 1), min_overlap_new_encoder=(0, 1), min_golden=(0, 1))
        require_ranges(self, min_recall_10=(0, 1), min_recall_100=(0, 1), max_norm_error=(0, 1))
        require_ranges(self, min_parity_fp32=(-1, 1), min_parity_int8=(-1, 1))
