"""Configuration of the shop's input tables, one frozen dataclass per section of `shop.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from indexer.errors import ConfigError

FORMATS: tuple[str, ...] = ("auto", "parquet", "csv", "tsv", "jsonl")
"""How a table may be written; `auto` goes by the file's name."""

GRADES: Mapping[str, int] = MappingProxyType(
    {
        **{"e": 3, "s": 2, "c": 1, "i": 0},
        **{"exact": 3, "substitute": 2, "complement": 1},
        **{"high": 3, "low": 2, "irrelevant": 0},
        **{"3": 3, "2": 2, "1": 1, "0": 0},
        **{"excellent": 3, "good": 2, "okay": 1, "bad": 0},
    }
)
"""Label vocabularies in use, lower case, to grades: 3 high, 2 low, 1 and 0 irrelevant (KD-Boost appendix A.1)."""

MANY = 10**9
"""A bound for what has none of its own."""


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless low <= value <= high."""
    require(low <= value <= high, f"{name}: expected {low} to {high}, found {value}")


def require_ranges(section: object, **ranges: tuple[float, float]) -> None:
    """Raise ConfigError unless every named field lies between its limits, both included."""
    for name, (low, high) in ranges.items():
        require_range(name, getattr(section, name), low, high)


def require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless the value is one of the known words."""
    require(value in known, f"{name}: expected one of {', '.join(known)}, found {value!r}")


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """One input table: where it lies, how it is written, what its columns are called."""

    path: str = ""
    """File, folder of part files, or `s3://` address; empty means that the shop has no such table."""
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    """Contract column -> the shop's column, where the names differ."""
    max_reject_share: float = 0.005
    """Share of rejected rows above which the run stops with exit code 3."""
    success_file: bool = False
    """A folder without the `_SUCCESS` that Spark and Hadoop write last is refused."""

    known_formats = FORMATS

    def __post_init__(self) -> None:
        require_one_of("format", self.format, self.known_formats)
        require_range("max_reject_share", self.max_reject_share, 0, 1)


@dataclass(frozen=True, kw_only=True)
class PurchasesConfig(InputConfig):
    """Purchases per query and product."""

    kind: str = "columns"
    """`columns`: a row counts purchases (RAW_PURCHASES). `events`: a row is a UBI 1.3 event (RAW_EVENTS)."""
    default_purchases: int = 1
    """Count of a row whose table has no `purchases` column."""
    min_purchases: int = 20
    """Pairs bought fewer times are dropped (KD-Boost section 4.1)."""
    max_purchases: int = 999_999_999
    """Rows above this count are rejected as outliers."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Action of an event -> purchases it counts for; `purchase` counts 1 and any other 0 unless named here."""
    remove_repeats: bool = True
    """Whether events without `event_id` count once where their whole records are equal."""
    daily: bool = False
    """Whether every file has its day in its path (`event_date=2026-11-19/`, `2026-11-19.csv`); others are not read."""
    lookback_days: int = 0
    """Days that count, the run's own the last of them; 0 counts all. Needs `event_date` or daily files."""
    half_life_days: int = 0
    """Days after which a purchase counts half; 0 counts old ones in full. Needs `event_date` or daily files."""
    max_user_pair_day: int = 0
    """Purchases of one user, query and product that count per day; 0 sets no limit. Needs `user_id` and days."""
    max_user_day: int = 0
    """Purchases of one user that count per day; 0 sets no limit. Needs `user_id` and days."""
    min_users: int = 0
    """Pairs bought by fewer different users are dropped; 0 asks for none. Needs `user_id`."""
    max_unknown_share: float = 1.0
    """Share of purchases of products that the catalogue lacks above which the run stops; always where it lacks all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        count, limit, days = (1, 2**62), (0, 2**62), (0, 36_500)
        require_one_of("kind", self.kind, ("columns", "events"))
        require_ranges(self, default_purchases=count, min_purchases=count, max_purchases=count)
        require_ranges(self, lookback_days=days, half_life_days=(0, 3_650), max_unknown_share=(0, 1))
        require_ranges(self, max_user_pair_day=limit, max_user_day=limit, min_users=limit)
        for action, weight in self.all_weights().items():
            require_range(f"weights.{action}", weight, 0, 1_000_000)
        require(any(self.all_weights().values()), "weights: expected an action that counts, found only zeros")

    def all_weights(self) -> dict[str, int]:
        """Return every action that is named, with what it counts for."""
        return {"purchase": 1, **self.weights}

    @property
    def needs_users(self) -> bool:
        """Whether users are told apart."""
        return bool(self.max_user_pair_day or self.max_user_day or self.min_users)

    @property
    def needs_days(self) -> bool:
        """Whether every purchase must have its day."""
        return bool(self.lookback_days or self.half_life_days or self.max_user_pair_day or self.max_user_day)


@dataclass(frozen=True, kw_only=True)
class QueriesConfig(InputConfig):
    """The searches of an events log (UBI 1.3), where its events name a query by its id alone."""

    daily: bool = False
    """Whether every file has its day in its path, as for purchases."""


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig(InputConfig):
    """Products and the text they are embedded by."""

    text_fields: tuple[str, ...] = ("title", "product_type", "brand", "color")
    """Columns joined into the product text (Vo et al. 2024 section 3: title, type, brand)."""
    text_separator: str = " | "
    category_separator: str = ">"
    """Separates the names of a category path that is written as one string."""

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = ("title", "product_type", "brand", "color", "description")
        unknown = [name for name in self.text_fields if name not in allowed]
        require(not unknown, f"text_fields: expected columns among {', '.join(allowed)}, found {unknown}")
        require("title" in self.text_fields, "text_fields: `title` must be among them")
        require(bool(self.category_separator.strip()), "category_separator: expected a visible character")


@dataclass(frozen=True, kw_only=True)
class TaxonomyConfig(InputConfig):
    """The shop's tree; without a path it is made of the catalogue's category paths.

    A table of full paths is told by `columns = { category_path = "your column" }`; with `format = "lines"` every
    line of the file is `id : Home > Kitchen` or `id - Home > Kitchen`, and `#` starts a comment.
    """

    max_depth: int = 32
    two_parents: str = "refuse"
    """A node with several parents: refuse, or first (in code point order, of the parents that are there)."""

    known_formats = (*FORMATS, "lines")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("max_depth", self.max_depth, 1, 64)
        require_one_of("two_parents", self.two_parents, ("refuse", "first"))
        require(self.format != "lines" or not self.columns, "columns: a file of `lines` has no column names")

    @property
    def full_paths(self) -> bool:
        """Whether nodes come with their full path, and not with their parent's id."""
        return self.format == "lines" or "category_path" in self.columns


@dataclass(frozen=True, kw_only=True)
class CrosswalkConfig(InputConfig):
    """What the nodes of another taxonomy are in the shop's tree, where products or classifier name those."""


@dataclass(frozen=True, kw_only=True)
class QueryClassesConfig(InputConfig):
    """The shop's query classifier, if it has one."""


@dataclass(frozen=True, kw_only=True)
class BlockedWordsConfig(InputConfig):
    """Words and phrases that no curated query may hold, if the shop has such a list: a table with a column `word`."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig(InputConfig):
    """Pairs of query and product without a label, for `indexer label`."""


@dataclass(frozen=True, kw_only=True)
class LabelsConfig(InputConfig):
    """Relevance labels of (query, product) pairs."""

    grades: Mapping[str, int] = field(default_factory=dict)
    """The shop's own words for a label -> grade 0 to 3, on top of the known vocabularies."""
    training_sources: tuple[str, ...] = ("llm",)
    """Words of the column `source` whose labels train and never measure; a pair labelled by others too keeps theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = {word: grade for word, grade in self.grades.items() if grade not in (0, 1, 2, 3)}
        require(not wrong, f"grades: expected 0, 1, 2 or 3, found {wrong}")

    def all_grades(self) -> dict[str, int]:
        """Return every known label word, lower case, with its grade."""
        return {**GRADES, **{word.lower(): grade for word, grade in self.grades.items()}}
