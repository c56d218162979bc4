"""What the stages of one build share, and what it will do, told before it does it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from indexer.build.catalogue import Row
from indexer.build.collection import keeps_shards
from indexer.build.forecast import BuildForecast, CollectionForecast, add_bases, find_built, measure_rate
from indexer.build.live import LiveRelease
from indexer.build.plan import CollectionPlan, find_curated, plan_collection, require_memory
from indexer.build.publish import RunFolder
from indexer.build.site import Site
from indexer.build.summary import ReleaseSummary
from indexer.config import Config
from indexer.encoder import Encoder
from indexer.object_cache import ObjectCache
from indexer.releases.history import History


@dataclass
class BuildRun:
    """What the stages of one build share."""

    config: Config
    run_date: str
    encoder: Encoder
    encoder_directory: Path
    folder: RunFolder
    history: History
    """The log when the run began: it commits the next entry or none."""
    cache: ObjectCache
    """Objects of the store that are read again, each verified."""
    live: LiveRelease
    reuse: str
    work: Path
    scratch: Path
    site: Site
    progress: bool
    dry: bool
    """Whether the plan is all that is wanted."""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def plan_collections(run: BuildRun) -> list[CollectionPlan]:
    """Read the rows of all collections and say into how many shards they go."""
    description = run.encoder.description
    intakes = [run.site.read_products(description)]
    if find_curated(run.config, run.run_date) is not None:
        queries = run.site.read_queries()
        intakes += [queries] if queries.rows else []
    live = {name: len(found.entry.base) for name, found in run.live.collections.items()}
    return [plan_collection(run.config, intake, live=live.get(intake.collection, 0)) for intake in intakes]


def forecast_run(run: BuildRun, plans: Sequence[CollectionPlan], sampled: Mapping[str, Sequence[Row]]) -> BuildForecast:
    """Count what is ahead; raises ConfigError where it would need more memory than is allowed."""
    description, options, found = run.encoder.description, run.config.index, []
    for plan in plans:
        name = plan.intake.collection
        live = run.live.collections.get(name)
        item = CollectionForecast(
            name=name,
            rows=plan.intake.rows,
            rejected=plan.intake.rejected.total(),
            shards=plan.shards,
            shards_wanted=plan.shards_wanted,
            peak_bytes=require_memory(
                run.config,
                plan,
                description.dimension,
                compared=live is not None,
                dealt=live is not None and not live.is_aligned(plan.shards),
            ),
        )
        keeps = run.reuse == "all" and keeps_shards(live, plan, options)
        texts = [row.text for row in sampled[name]]
        seen = run.site.forecast_bases(name, plan.shards, live, keeps=keeps)
        if seen and texts:
            rate = partial(measure_rate, run.encoder, texts, name)
            item = add_bases(
                item,
                seen.looked,
                built=find_built(live.entry.base, seen, options) if keeps and live else [True] * plan.shards,
                dimension=description.dimension,
                options=options,
                measure_rate=rate,
            )
        found.append(item)
    encoder = f"{description.name} {description.precision}, {description.dimension} dimensions"
    return BuildForecast(run_id=run.folder.run_id, url=run.folder.store.url, encoder=encoder, collections=tuple(found))


def summarise_plan(run: BuildRun, forecast: BuildForecast) -> ReleaseSummary:
    """Return what is told of a run that ends at its plan."""
    return ReleaseSummary(
        status="planned",
        run_id=run.folder.run_id,
        run_date=run.run_date,
        url=run.folder.store.url,
        sequence=run.history.head,
        collections=[],
        bytes=0,
        plan=forecast.as_dict(),
        seconds=run.seconds,
    )
