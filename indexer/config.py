"""Everything that can be configured, one frozen dataclass per section of `shop.toml`.

Defaults are the papers' values, with the place they stand in, or a choice of this project.
Field names equal the keys of the file; `config_file.load_config` fills them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from indexer.distill_config import BermConfig, DistillConfig, LlmConfig
from indexer.index_config import GatesConfig, IndexConfig
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
    require_ranges,
)
from indexer.job_config import (
    CuratedConfig,
    GramConfig,
    GraphConfig,
    NegativesConfig,
    NodesConfig,
    NpmiConfig,
    SparkConfig,
)


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
