"""Where the rows of a build lie and its base shards are finished: this machine, or the executors of a cluster."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from indexer.build.base_shard import BaseBuilder, FinishedBase
from indexer.build.catalogue import (
    Intake,
    Row,
    Spool,
    read_rows,
    sample_texts,
    split_spool,
    spool_products,
    spool_queries,
)
from indexer.build.live import OldRow, read_old_rows
from indexer.build.plan import CollectionPlan
from indexer.config import Config
from indexer.encoder import EncoderDescription
from indexer.manifest import EncoderEntry


class Site(Protocol):
    """What a build asks of the place where it is done; the gates and the release are the same everywhere."""

    def identify_catalogue(self) -> Any:
        """Return, JSON-ready, what identifies the catalogue, None where this machine hashes its files."""

    def tell(self, plan: str) -> None:
        """Show the plan to people."""

    def read_products(self, encoder: EncoderDescription) -> Intake:
        """Read the catalogue; raises ContractError where it breaks its contract."""

    def read_queries(self) -> Intake:
        """Read the curated queries; raises ContractError where that step has not finished."""

    def deal_rows(self, plan: CollectionPlan) -> None:
        """Deal the rows of a collection, once it is planned, to its shards."""

    def sample_texts(self, collection: str, count: int) -> list[str]:
        """Return at most `count` of the display texts of a collection that was dealt, by their hashes."""

    def finish_bases(self, bases: BaseBuilder, encoder: EncoderEntry) -> Iterator[FinishedBase]:
        """Yield the base shards of a collection in order; `encoder` names its files in the store."""


class LocalSite:
    """This machine: rows lie in files below a scratch folder, and shards are finished one after another."""

    def __init__(self, config: Config, run_date: str, folder: Path, *, progress: bool) -> None:
        self._config, self._run_date, self._folder, self._progress = config, run_date, folder, progress
        self._files: dict[str, list[Path]] = {}

    def identify_catalogue(self) -> Any:
        """Return None: the files are hashed here."""
        return None

    def tell(self, plan: str) -> None:
        """Write the plan above the bars."""
        if self._progress:
            tqdm.write(plan, file=sys.stderr)

    def read_products(self, encoder: EncoderDescription) -> Intake:
        """Write the catalogue's rows to disk; raises ContractError where it breaks its contract."""
        return spool_products(self._config, encoder, self._folder, progress=self._progress)

    def read_queries(self) -> Intake:
        """Write the curated queries to disk; raises ContractError where that step has not finished."""
        return spool_queries(self._config, self._run_date, self._folder, progress=self._progress)

    def deal_rows(self, plan: CollectionPlan) -> None:
        """Write one file of rows per shard."""
        assert isinstance(plan.intake, Spool)
        self._files[plan.intake.collection] = split_spool(plan.intake, plan.shards)

    def sample_texts(self, collection: str, count: int) -> list[str]:
        """Return at most `count` display texts of a collection, by their hashes."""
        return sample_texts(self._files[collection], count)

    def finish_bases(self, bases: BaseBuilder, encoder: EncoderEntry) -> Iterator[FinishedBase]:
        """Yield the base shards of a collection; the files of their rows go one by one."""
        files, live = self._files[bases.collection], bases.live
        old_files = live.split_rows(self._folder, len(files)) if live else [None] * len(files)
        pairs = tqdm(
            list(zip(files, old_files, strict=True)),
            desc=f"shards of {bases.collection}",
            unit=" shards",
            disable=not self._progress,
        )
        for number, (file, old_file) in enumerate(pairs):
            yield bases.finish(number, _drain_rows(file), _drain_old_rows(old_file) if old_file else ())


def _drain_rows(file: Path) -> Iterator[Row]:
    yield from read_rows(file)
    file.unlink()


def _drain_old_rows(file: Path) -> Iterator[tuple[str, OldRow]]:
    yield from read_old_rows(file)
    file.unlink()
