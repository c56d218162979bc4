"""The contract of every table; the only place a column is defined.

Readers check rows against it, Spark derives its types from it, documentation prints it.
"""

from dataclasses import dataclass
from datetime import date

import pyarrow as pa

ID_BYTES = 256
TEXT_BYTES = 8_192
QUERY_BYTES = 1_024
LARGEST_COUNT = 2**62
FIRST_DAY = date(1990, 1, 1)
LAST_DAY = date(2099, 12, 31)
"""No shop sold anything on a screen before, and none has sold anything after: such days are defaults and slips."""


@dataclass(frozen=True)
class Column:
    """One column: its type, what it means, and which values are accepted."""

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    """A null is accepted, and an input may lack the column."""
    minimum: float | date | None = None
    maximum: float | date | None = None
    max_bytes: int | None = None
    text: bool = False
    """HTML entities are decoded: queries, titles, names, paths and node ids, which may be made of names; never product,
    event or query ids."""
    identifier: bool = False
    """Control characters are refused: ids are written one per line."""
    path: str = ""
    """The shop's usual name of the column where it is another one: a path into nested records."""
    private: bool = False
    """Names a person: never published, and never in the sample of a rejected row."""


@dataclass(frozen=True)
class Table:
    """A named table: its columns, its key, and the job that writes it."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    written_by: str = "the shop"
    nested: bool = False
    """A dot in a shop's name leads into a record, unless a column has the whole name."""

    @property
    def schema(self) -> pa.Schema:
        """The pyarrow schema, with each column's documentation as metadata."""
        return pa.schema(
            [pa.field(c.name, c.type, c.nullable, metadata={"doc": c.doc}) for c in self.columns],
            metadata={"table": self.name},
        )

    def column(self, name: str) -> Column:
        """Return the named column; raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def query_column(name: str = "query", doc: str = "query text, normalised by indexer.text") -> Column:
    """Describe a column that holds a query."""
    return Column(name, pa.string(), doc, max_bytes=QUERY_BYTES, text=True)


def product_id_column() -> Column:
    """Describe the column that holds the shop's product id."""
    return Column("product_id", pa.string(), "the shop's product id, always text", max_bytes=ID_BYTES, identifier=True)


def node_column(name: str, doc: str, nullable: bool = False) -> Column:
    """Describe a column that holds a taxonomy node id, which may be made of names."""
    return Column(name, pa.string(), doc, nullable=nullable, max_bytes=TEXT_BYTES, text=True)


def text_column(name: str, doc: str, nullable: bool = True) -> Column:
    """Describe a column of free text."""
    return Column(name, pa.string(), doc, nullable=nullable, max_bytes=TEXT_BYTES, text=True)


def user_column(name: str, doc: str) -> Column:
    """Describe a column that tells one shopper from another."""
    return Column(name, pa.string(), doc, nullable=True, private=True)


def share_column(name: str, doc: str, nullable: bool = False) -> Column:
    """Describe a column that holds a number from 0 to 1."""
    return Column(name, pa.float64(), doc, nullable=nullable, minimum=0, maximum=1)


def count_column(name: str, doc: str) -> Column:
    """Describe a column that holds a count of 1 or more."""
    return Column(name, pa.int64(), doc, minimum=1, maximum=LARGEST_COUNT)


RAW_PURCHASES = Table(
    "RAW_PURCHASES",
    (
        query_column(doc="query text as the shopper typed it"),
        product_id_column(),
        Column("purchases", pa.int64(), "purchases of the product after the query", nullable=True, minimum=1),
        Column(
            "event_date", pa.date32(), "day of the purchases (UTC)", nullable=True, minimum=FIRST_DAY, maximum=LAST_DAY
        ),
        user_column("user_id", "who bought; only counted, never published"),
    ),
)

RAW_EVENTS = Table(
    "RAW_EVENTS",
    (
        Column("action_name", pa.string(), "what the shopper did, such as purchase, add_to_cart or click"),
        Column(
            "timestamp",
            pa.timestamp("us", "UTC"),
            "ISO 8601 time, or seconds, milli-, micro- or nanoseconds since 1970; UTC",
            minimum=FIRST_DAY,
            maximum=LAST_DAY,
        ),
        Column(
            "object_id",
            pa.string(),
            "the product's id; usually `event_attributes.object.object_id`",
            max_bytes=ID_BYTES,
            identifier=True,
            path="event_attributes.object.object_id",
        ),
        Column("query_id", pa.string(), "the search that led to the event", nullable=True),
        Column("user_query", pa.string(), "text of that search; wins over `query_id`", nullable=True, text=True),
        Column(
            "quantity",
            pa.int64(),
            "pieces of the product, 1 where there are none; usually `event_attributes.quantity`",
            nullable=True,
            minimum=1,
            path="event_attributes.quantity",
        ),
        Column("event_id", pa.string(), "the same in every copy of the event", nullable=True),
        user_column("user_id", "who acted; only counted, never published"),
        user_column("client_id", "the browser or app that acted, where `user_id` is empty"),
    ),
    nested=True,
)

RAW_QUERIES = Table(
    "RAW_QUERIES",
    (
        Column("query_id", pa.string(), "the search's id, as the events have it"),
        Column("user_query", pa.string(), "query text as the shopper typed it", nullable=True, text=True),
    ),
    key=("query_id",),
    nested=True,
)

CATALOGUE = Table(
    "CATALOGUE",
    (
        product_id_column(),
        text_column("title", "product title", nullable=False),
        text_column("brand", "brand name"),
        text_column("product_type", "product type"),
        text_column("color", "color name"),
        text_column("description", "long description, cut to its limit"),
        Column("node_ids", pa.list_(pa.string()), "taxonomy nodes of the product", nullable=True, text=True),
        Column("category_path", pa.list_(pa.string()), "names from the root to the leaf", nullable=True, text=True),
        Column("updated_at", pa.string(), "ISO 8601 time; the newest of several rows of one id wins", nullable=True),
    ),
    key=("product_id",),
)

TAXONOMY = Table(
    "TAXONOMY",
    (
        node_column("node_id", "node id; for trees made of category paths, the path itself"),
        node_column("parent_id", "parent node; null at a root", nullable=True),
        text_column("name", "name of the node", nullable=False),
    ),
    key=("node_id",),
    written_by="taxonomy_labels",
)

TAXONOMY_PATHS = Table(
    "TAXONOMY_PATHS",
    (
        node_column("node_id", "node id"),
        Column("category_path", pa.list_(pa.string()), "names from the root to the node itself", text=True),
    ),
    key=("node_id",),
)

CROSSWALK = Table(
    "CROSSWALK",
    (
        node_column("from_node", "id or full path in the other taxonomy, as products and classifier name it"),
        node_column("to_node", "id or full path in the shop's tree"),
    ),
    key=("from_node",),
)

QUERY_CLASSES = Table(
    "QUERY_CLASSES",
    (
        query_column(),
        node_column("node_id", "node the classifier chose: its id, or a name as products have it"),
        share_column("score", "its confidence; 1 where the table has no scores", nullable=True),
    ),
    key=("query", "node_id"),
)

BLOCKED_WORDS = Table(
    "BLOCKED_WORDS",
    (query_column("word", "a word or phrase that no curated query may hold"),),
)

LABELS = Table(
    "LABELS",
    (
        query_column(),
        product_id_column(),
        Column("label", pa.string(), "high, low or irrelevant"),
        Column(
            "grade",
            pa.int64(),
            "3 exact, 2 substitute, 1 complement, 0 irrelevant; derived from the label's word, not read from the shop",
            minimum=0,
            maximum=3,
        ),
        text_column("source", "where the label comes from"),
        Column("weight", pa.float64(), "weight of the label; null is 1", nullable=True, minimum=0),
    ),
    key=("query", "product_id"),
)

PAIRS = Table(
    "PAIRS",
    (query_column(), product_id_column()),
    key=("query", "product_id"),
)

PURCHASES = Table(
    "PURCHASES",
    (query_column(), product_id_column(), count_column("purchases", "sum over all rows of the pair")),
    key=("query", "product_id"),
    written_by="purchase_gram",
)

QUERY_GRAM = Table(
    "QUERY_GRAM",
    (
        query_column("query_a", "the smaller of the two queries in code point order"),
        query_column("query_b", "the larger"),
        Column("overlap", pa.int64(), "sum over products of C_ak * C_bk", minimum=1),
        Column("gram", pa.float64(), "sum over products of A_ak * A_bk, rows normalised (equation 2 as printed)"),
        Column("joint", pa.float64(), "walk joint: sum over products of C_ak * C_bk / (N_k * N)"),
        count_column("shared_products", "products bought after both queries"),
    ),
    key=("query_a", "query_b"),
    written_by="purchase_gram",
)

PRODUCT_GRAM = Table(
    "PRODUCT_GRAM",
    (
        Column("product_a", pa.string(), "the smaller of the two product ids in code point order"),
        Column("product_b", pa.string(), "the larger"),
        Column("overlap", pa.int64(), "sum over queries of C_ia * C_ib", minimum=1),
        Column("gram", pa.float64(), "sum over queries of the products' shares of purchases"),
        Column("joint", pa.float64(), "walk joint: sum over queries of C_ia * C_ib / (n_i * N)"),
        count_column("shared_queries", "queries after which both were bought"),
    ),
    key=("product_a", "product_b"),
    written_by="purchase_gram",
)

QUERY_PAIRS = Table(
    "QUERY_PAIRS",
    (
        query_column("query_a", "the smaller of the two queries in code point order"),
        query_column("query_b", "the larger"),
        Column("npmi", pa.float64(), "normalised pointwise mutual information"),
        Column("ceiling", pa.float64(), "largest value that two such queries can reach; null where unbounded", True),
        Column("joint", pa.float64(), "joint probability in the chosen variant"),
        Column("p_a", pa.float64(), "marginal probability of query_a in the chosen variant"),
        Column("p_b", pa.float64(), "marginal probability of query_b in the chosen variant"),
        count_column("support", "sum over products of min(C_ak, C_bk)"),
        count_column("shared_products", "products bought after both queries"),
    ),
    key=("query_a", "query_b"),
    written_by="npmi_pairs",
)

NPMI_CALIBRATION = Table(
    "NPMI_CALIBRATION",
    (
        Column("decile", pa.int64(), "tenth of the pairs by NPMI; 1 holds the lowest", minimum=1, maximum=10),
        Column("npmi_above", pa.float64(), "the decile holds NPMI above this"),
        Column("npmi_up_to", pa.float64(), "up to this, included"),
        count_column("pairs", "pairs in the decile"),
        Column("mean_npmi", pa.float64(), "their mean NPMI"),
        count_column("sampled", "pairs looked at, at most 500"),
        Column("labelled", pa.int64(), "sampled pairs of two queries with confident nodes", minimum=0),
        Column("agreeing", pa.int64(), "labelled pairs that share a node, or a node and one above it", minimum=0),
        share_column("agreement", "agreeing / labelled; null without a labelled pair", nullable=True),
        Column("labelled_apart", pa.int64(), "the same by the products that the two do not share", minimum=0),
        Column("agreeing_apart", pa.int64(), "the same by the products that the two do not share", minimum=0),
        share_column("agreement_apart", "agreeing_apart / labelled_apart; null without such a pair", nullable=True),
        share_column("agreement_above", "estimate of the agreement for all pairs above npmi_above", nullable=True),
    ),
    key=("decile",),
    written_by="calibrate_npmi",
)

PRODUCT_NODES = Table(
    "PRODUCT_NODES",
    (
        product_id_column(),
        node_column("node_id", "leaf the product lies in"),
        share_column("share", "1 / number of its nodes"),
        share_column("confidence", "trust in the row"),
    ),
    key=("product_id", "node_id"),
    written_by="taxonomy_labels",
)

QUERY_NODES = Table(
    "QUERY_NODES",
    (
        query_column(),
        node_column("node_id", "node the query's purchases lie in, or its class"),
        share_column(
            "share", "share of the query's purchases, smoothed by the levels of the tree; or the classifier's"
        ),
        share_column("confidence", "share, less where there are few purchases"),
    ),
    key=("query", "node_id"),
    written_by="taxonomy_labels",
)

QUERY_NEGATIVES = Table(
    "QUERY_NEGATIVES",
    (
        query_column("query_a", "the smaller of the two queries in code point order"),
        query_column("query_b", "the larger"),
        share_column("similarity", "how alike the two look"),
        Column("source", pa.string(), "lexical (words and trigrams) or encoder"),
    ),
    key=("query_a", "query_b"),
    written_by="hard_negatives",
)

CURATED_QUERIES = Table(
    "CURATED_QUERIES",
    (
        Column(
            "query_id", pa.string(), "first 16 hex digits of the query's SHA-256", max_bytes=ID_BYTES, identifier=True
        ),
        query_column(),
        Column("weight", pa.float64(), "purchases after the query and its variants", minimum=0),
        count_column("products", "distinct products bought after the query and its variants"),
        Column("is_product_id", pa.bool_(), "whether the query is the id of a product"),
    ),
    key=("query_id",),
    written_by="curated_queries",
)

QUERY_VARIANTS = Table(
    "QUERY_VARIANTS",
    (
        query_column(doc="a near-duplicate that was merged into a curated query"),
        Column("query_id", pa.string(), "the curated query", max_bytes=ID_BYTES, identifier=True),
        count_column("purchases", "purchases after the near-duplicate, a part of the curated query's weight"),
    ),
    key=("query",),
    written_by="curated_queries",
)

GRAPH_NEIGHBOURS = Table(
    "GRAPH_NEIGHBOURS",
    (
        Column("kind", pa.string(), "query or product: what the node is"),
        Column("node", pa.string(), "query text or product id", max_bytes=QUERY_BYTES),
        Column("neighbour", pa.string(), "of the other kind at order 1, of the same at order 2", max_bytes=QUERY_BYTES),
        Column("order", pa.int64(), "1: bought together; 2: reached by two such steps", minimum=1, maximum=2),
        share_column("weight", "probability that a random walk of `order` steps from the node ends at the neighbour"),
    ),
    key=("kind", "node", "order", "neighbour"),
    written_by="graph_neighbours",
)

TEACHER_SCORES = Table(
    "TEACHER_SCORES",
    (
        query_column(),
        product_id_column(),
        Column("score", pa.float64(), "relevance on the scale of cosines, or a probability", minimum=-1, maximum=1),
    ),
    key=("query", "product_id"),
    written_by="the shop, from a model of its own",
)

GOLDEN_QUERIES = Table(
    "GOLDEN_QUERIES",
    (
        query_column(doc="query text as a shopper types it"),
        product_id_column(),
        Column(
            "within", pa.int64(), "rank up to which the product must be found; null is 10", True, minimum=1, maximum=100
        ),
    ),
    key=("query", "product_id"),
)

REJECTS = Table(
    "REJECTS",
    (
        Column("table", pa.string(), "table whose input row was rejected"),
        Column("reason", pa.string(), "reason code"),
        Column("key", pa.string(), "key of one such row, as far as it could be read", nullable=True),
        Column("sample", pa.string(), "the offending value, cut to 200 characters", nullable=True),
        count_column("count", "rows rejected for this reason"),
    ),
    written_by="every job",
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        RAW_PURCHASES,
        RAW_EVENTS,
        RAW_QUERIES,
        CATALOGUE,
        TAXONOMY,
        TAXONOMY_PATHS,
        CROSSWALK,
        QUERY_CLASSES,
        BLOCKED_WORDS,
        LABELS,
        PAIRS,
        PURCHASES,
        QUERY_GRAM,
        PRODUCT_GRAM,
        QUERY_PAIRS,
        NPMI_CALIBRATION,
        PRODUCT_NODES,
        QUERY_NODES,
        QUERY_NEGATIVES,
        CURATED_QUERIES,
        QUERY_VARIANTS,
        GRAPH_NEIGHBOURS,
        TEACHER_SCORES,
        GOLDEN_QUERIES,
        REJECTS,
    )
}


def describe_table(table: Table) -> str:
    """Return a table's contract as Markdown, as `docs/inputs.md` prints it."""
    head = f"### {table.name}\n\nKey: {', '.join(table.key) or 'none'}. Written by: {table.written_by}.\n"
    rows = ["| column | type | | meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| {c.name} | {c.type} | {'optional' if c.nullable else 'required'} | {c.doc} |" for c in table.columns]
    return head + "\n" + "\n".join(rows) + "\n"
