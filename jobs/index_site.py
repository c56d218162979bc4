"""The executors of a cluster as the site of a build: rows are read and dealt by Spark, one shard a task."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer import errors
from indexer.build.base_shard import BaseBuilder, FinishedBase
from indexer.build.catalogue import Intake, Row, check_text_rule, list_columns, sample_rows
from indexer.build.drift import IdSample
from indexer.build.forecast import SeenBases
from indexer.build.live import LiveCollection
from indexer.build.versions import read_versions
from indexer.config import Config
from indexer.contracts.schemas import CATALOGUE, CURATED_QUERIES
from indexer.encoder import EncoderDescription
from indexer.errors import IndexerError, IntegrityError
from indexer.manifest import EncoderEntry
from jobs import index_tasks
from jobs.steps import announce, first_row
from spark.block_pairs import spread_tasks
from spark.inputs import Location
from spark.session import spark_failures
from spark.tables import Input, read_input, read_table, reject_row
from spark.text import FIXES

RAISED = re.compile(r"indexer\.errors\.(\w+): (.+)")


@dataclass(kw_only=True)
class RoutedRows(Intake):
    """The rows of one collection as a frame of ROWS, which Spark keeps."""

    kept: DataFrame
    """Those without a text among them."""

    @property
    def frame(self) -> DataFrame:
        """The rows that are indexed."""
        return self.kept.where(F.col("text") != "") if self.collection == "products" else self.kept

    def read_ids(self) -> Iterator[str]:
        """Yield the ids of the rows; asked for where they are few."""
        for row in self.frame.select("id").toLocalIterator():
            yield row["id"]


class ClusterSite:
    """Spark's executors: a task reads a part of the rows, or finishes one shard."""

    def __init__(self, session: SparkSession, config: Config, run_date: str, location: Location) -> None:
        self._session, self._config, self._run_date, self._location = session, config, run_date, location
        self._intakes: dict[str, RoutedRows] = {}

    def identify_catalogue(self) -> Any:
        """Return addresses, sizes and times of objects that only executors read; None where files are hashed."""
        return self._location.identity if self._location.remote else None

    def tell(self, plan: str) -> None:
        """Print the plan, unless one JSON document is all that may be printed."""
        for line in plan.splitlines():
            announce(line)

    def read_products(self, encoder: EncoderDescription) -> Intake:
        """Read the catalogue; raises ContractError where it breaks its contract."""
        check_text_rule(self._config, encoder)
        settings = self._config.catalogue
        source = read_input(self._session, CATALOGUE, self._location, settings, separator=settings.category_separator)
        compose = index_tasks.compose_products(encoder.text_fields, encoder.text_separator)
        composed = source.rows.select(*list_columns(encoder.text_fields)).mapInArrow(compose, index_tasks.ROWS)
        routed = self._keep(composed, "products")
        counted = _count_texts(routed.kept)
        rejects = list(source.rejects)
        if counted["empty"]:
            rejects.append(reject_row(CATALOGUE, "text_empty", counted["empty"], key=counted["example"]))
        routed.rows_in, routed.rows = source.counts["rows_in"], counted["rows"] - counted["empty"]
        routed.rejects = sorted(rejects, key=lambda row: str(row["reason"]))
        routed.rejected.update({row["reason"]: row["count"] for row in rejects})
        routed.remarks = {CATALOGUE.name: _remark(source, counted["short"])}
        return routed

    def read_queries(self) -> Intake:
        """Read the curated queries; raises ContractError where that step has not finished."""
        queries = read_table(self._session, self._config.shop.work, CURATED_QUERIES, self._run_date)
        composed = queries.select("query_id", "query").mapInArrow(index_tasks.compose_queries, index_tasks.ROWS)
        routed = self._keep(composed, "queries")
        routed.rows_in = routed.rows = _count_texts(routed.kept)["rows"]
        return routed

    def sample_rows(self, collection: str, count: int) -> list[Row]:
        """Return at most `count` rows of different display texts of a collection, by their hashes."""
        with _failures():
            pick = index_tasks.pick_rows(count)
            picked = self._intakes[collection].frame.mapInArrow(pick, index_tasks.ROWS)
            # Those of all partitions are too many for the driver.
            best = picked.repartition(1).mapInArrow(pick, index_tasks.ROWS)
            return sample_rows([Row(*row) for row in best.collect()], count)

    def survey_ids(self, collection: str, wanted: frozenset[str]) -> tuple[IdSample, set[str]]:
        """Return a sample of a collection's ids, and which of the wanted ones are among them."""
        with _failures():
            found = self._intakes[collection].frame.mapInArrow(index_tasks.survey(wanted), index_tasks.DONE)
            joined = found.repartition(1).mapInArrow(index_tasks.join_surveys, index_tasks.DONE).collect()
        return index_tasks.join(bytes(row["data"]) for row in joined)

    def forecast_bases(
        self, collection: str, shards: int, live: LiveCollection | None, *, keeps: bool
    ) -> SeenBases | None:
        """Return None: to count what changed, the rows would have to be dealt twice."""
        return None

    def finish_bases(self, bases: BaseBuilder, encoder: EncoderEntry) -> Iterator[FinishedBase]:
        """Deal the rows and yield the base shards of a collection; all are finished before the first is given."""
        intake, task = self._intakes[bases.collection], make_task(bases, encoder)
        # Kept on disk, so that what is fetched shard by shard is not worked out again.
        done = self._deal(intake.frame, task).mapInArrow(index_tasks.finish_base(task), index_tasks.DONE)
        done.persist(StorageLevel.DISK_ONLY)
        try:
            with _failures():
                done.count()
                found = groupby(done.toLocalIterator(), key=lambda row: row["shard"])
                numbers = []
                for number, pieces in found:
                    numbers.append(number)
                    yield index_tasks.unpack(bytes(piece["data"]) for piece in pieces)
        finally:
            done.unpersist()
            intake.kept.unpersist()
        if numbers != list(range(bases.shards)):
            raise IntegrityError(
                f"{bases.collection}: expected {bases.shards} shards in order, found the shards {numbers}; please "
                "report this"
            )

    def close(self) -> None:
        """Have Spark keep no rows any more."""
        for intake in self._intakes.values():
            intake.kept.unpersist()

    def _keep(self, composed: DataFrame, collection: str) -> RoutedRows:
        """Have Spark keep the rows, and enter them."""
        self._intakes[collection] = RoutedRows(collection=collection, kept=composed.persist())
        return self._intakes[collection]

    def _deal(self, rows: DataFrame, task: index_tasks.BaseTask) -> DataFrame:
        """Return a frame of which every partition holds the rows of one shard, and the live rows of its ids."""
        dealt = rows.mapInArrow(index_tasks.deal_rows(task.shards), index_tasks.DEALT)
        if part := task.live_part:
            numbers = part.find_strays()
            if numbers:
                spread = self._session.range(numbers.start, numbers.stop, 1, len(numbers))
                dealt = dealt.unionByName(spread.mapInArrow(index_tasks.deal_strays(part), index_tasks.DEALT))
        places = F.array(*[F.lit(number).cast("bigint") for number in spread_tasks(self._session, task.shards)])
        return dealt.repartition(task.shards, F.element_at(places, F.col("shard") + 1))


def make_task(bases: BaseBuilder, encoder: EncoderEntry) -> index_tasks.BaseTask:
    """Return what the tasks of a collection are sent."""
    builder, config = bases.builder, bases.builder.config
    url = builder.run.store.url
    return index_tasks.BaseTask(
        config=Config(index=config.index, gates=config.gates),
        single_writer=config.shop.single_writer,
        url=url if url.startswith("s3://") else str(Path(url).resolve()),
        run_id=builder.run.run_id,
        distrusts=builder.run.cache is not None,
        encoder=encoder,
        collection=bases.collection,
        queries=builder.queries[bases.collection],
        shards=bases.shards,
        live=bases.live.entry if bases.live else None,
        keeps=bases.keeps,
        shift=bases.shift,
        versions=read_versions(),
    )


def _count_texts(rows: DataFrame) -> dict[str, Any]:
    """Count rows, those without a text with an example, and those whose text is one character."""
    text = F.col("text")
    with _failures():
        return first_row(
            rows.agg(
                F.count("*").alias("rows"),
                F.count_if(text == "").alias("empty"),
                F.min(F.when(text == "", F.col("id"))).alias("example"),
                F.count_if(F.char_length(text) == 1).alias("short"),
            )
        )


def _remark(source: Input, short: int) -> dict[str, Any]:
    """Return of an input's counts those that are no rows, as the reader without Spark has them."""
    fixed = {name: source.counts[name] for name in sorted({*FIXES, "files_listed_twice"} & set(source.counts))}
    unknown = {name: source.counts[name] for name in ("unknown_columns",) if name in source.counts}
    return ({"fixed": fixed} if fixed else {}) | unknown | ({"texts_of_one_character": short} if short else {})


@contextmanager
def _failures() -> Iterator[None]:
    """Turn Spark's report of an error of ours, which a task raised, into that error, and others by `spark_failures`."""
    with spark_failures("build_index"):
        try:
            yield
        except (PySparkException, Py4JJavaError) as error:
            raised = RAISED.search(str(error))
            kind = getattr(errors, raised[1], None) if raised else None
            if raised and isinstance(kind, type) and issubclass(kind, IndexerError):
                raise kind(raised[2]) from error
            raise
