"""Where the rows of a build lie and its base shards are finished: this machine, or the executors of a cluster."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from indexer.build.base_shard import BaseBuilder, FinishedBase
from indexer.build.catalogue import (
    Intake,
    Row,
    Spool,
    read_ids,
    read_rows,
    sample_rows,
    split_spool,
    spool_products,
    spool_queries,
)
from indexer.build.drift import IdSample, survey_ids
from indexer.build.forecast import SeenBases, choose_bases, forecast_base
from indexer.build.live import LiveCollection, OldRow, count_old_rows, read_old_rows
from indexer.config import Config
from indexer.encoder import EncoderDescription
from indexer.manifest import EncoderEntry

DealtFiles = tuple[Sequence[Path], Sequence[Path | None]]
"""Files of rows and of live rows, one per base shard."""


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

    def sample_rows(self, collection: str, count: int) -> list[Row]:
        """Return at most `count` rows of different display texts of a collection that was read, by their hashes."""

    def survey_ids(self, collection: str, wanted: frozenset[str]) -> tuple[IdSample, set[str]]:
        """Return a sample of a collection's ids, and which of the wanted ones are among them."""

    def forecast_bases(
        self, collection: str, shards: int, live: LiveCollection | None, *, keeps: bool
    ) -> SeenBases | None:
        """Count what is ahead for some base shards of a collection; None where that takes as long as the work."""

    def finish_bases(self, bases: BaseBuilder, encoder: EncoderEntry) -> Iterator[FinishedBase]:
        """Deal the rows of a collection to its base shards and yield these in order.

        `encoder` names its files in the store.
        """


class LocalSite:
    """This machine: rows lie in files below a scratch folder, and shards are finished one after another."""

    def __init__(self, config: Config, run_date: str, folder: Path, *, progress: bool) -> None:
        self._config, self._run_date, self._folder, self._progress = config, run_date, folder, progress
        self._spools: dict[str, Spool] = {}
        self._dealt: dict[str, DealtFiles] = {}

    def identify_catalogue(self) -> Any:
        """Return None: the files are hashed here."""
        return None

    def tell(self, plan: str) -> None:
        """Write the plan, above the bars where there are any; the log of a night without a terminal has it, too."""
        tqdm.write(plan, file=sys.stderr)

    def read_products(self, encoder: EncoderDescription) -> Intake:
        """Write the catalogue's rows to disk; raises ContractError where it breaks its contract."""
        return self._keep(spool_products(self._config, encoder, self._folder, progress=self._progress))

    def read_queries(self) -> Intake:
        """Write the curated queries to disk; raises ContractError where that step has not finished."""
        return self._keep(spool_queries(self._config, self._run_date, self._folder, progress=self._progress))

    def sample_rows(self, collection: str, count: int) -> list[Row]:
        """Return at most `count` rows of different display texts of a collection, by their hashes."""
        return sample_rows(read_rows(self._spools[collection].path), count)

    def survey_ids(self, collection: str, wanted: frozenset[str]) -> tuple[IdSample, set[str]]:
        """Return a sample of a collection's ids, and which of the wanted ones are among them."""
        return survey_ids(read_ids(self._spools[collection].path), wanted)

    def forecast_bases(
        self, collection: str, shards: int, live: LiveCollection | None, *, keeps: bool
    ) -> SeenBases | None:
        """Count what is ahead for some base shards of a collection, whose rows are dealt to files."""
        files, old_files = self._deal(collection, shards, live)
        looked = [
            forecast_base(
                number,
                read_rows(files[number]),
                read_old_rows(old_file) if (old_file := old_files[number]) else (),
                live=live,
                shards=shards,
                keeps=keeps,
                options=self._config.index,
            )
            for number in choose_bases(shards)
        ]
        return SeenBases(looked, [count_old_rows(file) if file else 0 for file in old_files])

    def finish_bases(self, bases: BaseBuilder, encoder: EncoderEntry) -> Iterator[FinishedBase]:
        """Yield the base shards of a collection; the files of their rows go one by one."""
        files, old_files = self._deal(bases.collection, bases.shards, bases.live)
        pairs = tqdm(
            list(zip(files, old_files, strict=True)),
            desc=f"shards of {bases.collection}",
            unit=" shards",
            disable=not self._progress,
        )
        for number, (file, old_file) in enumerate(pairs):
            yield bases.finish(number, _drain_rows(file), _drain_old_rows(old_file) if old_file else ())

    def _deal(self, collection: str, shards: int, live: LiveCollection | None) -> DealtFiles:
        """Write one file of rows per base shard, once, and one of the live rows of its ids that lie elsewhere."""
        if collection not in self._dealt:
            files = split_spool(self._spools[collection], shards)
            old_files = live.split_rows(self._folder, shards) if live else [None] * shards
            self._dealt[collection] = files, old_files
        return self._dealt[collection]

    def _keep(self, spool: Spool) -> Spool:
        self._spools[spool.collection] = spool
        return spool


def _drain_rows(file: Path) -> Iterator[Row]:
    yield from read_rows(file)
    file.unlink()


def _drain_old_rows(file: Path) -> Iterator[tuple[str, OldRow]]:
    yield from read_old_rows(file)
    file.unlink()
