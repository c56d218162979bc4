"""Build and publish a release: plan, rows, shards, gates, report, manifest, commit.

Memory is bounded by the largest shard (see `shard.py`), whatever the size of the catalogue. Finished shards are
sealed in the store, so an interrupted build goes on at the next one. Nothing is visible before the last step.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import faiss

from indexer.build.canaries import write_canaries
from indexer.build.catalogue import Row
from indexer.build.collection import finish_collection, keeps_shards
from indexer.build.drift import Baseline, Drift, IdSample, measure_drift
from indexer.build.finished import FinishedCollection
from indexer.build.forecast import (
    BuildForecast,
    CollectionForecast,
    add_bases,
    count_built,
    describe_forecast,
    measure_rate,
)
from indexer.build.gates import judge_collection, judge_encoder, require_gates
from indexer.build.golden import GoldenQuery, find_golden, read_golden
from indexer.build.live import LiveRelease, find_live
from indexer.build.plan import CollectionPlan, find_curated, name_run, open_scratch, plan_collection, require_memory
from indexer.build.publish import RunFolder, SealedEncoder, encoder_entry, encoder_seal, publish
from indexer.build.published import find_baseline, find_published, read_live, refuse_older
from indexer.build.queries import count_sampled, embed_queries
from indexer.build.recall import ProbeQueries
from indexer.build.report import render_report
from indexer.build.shard import ShardBuilder
from indexer.build.site import LocalSite, Site
from indexer.build.story import gather_remarks, tell_build
from indexer.build.summary import ReleaseSummary, release_bytes
from indexer.build.versions import read_versions
from indexer.config import Config, as_document
from indexer.creation import prove_creates
from indexer.encoder import Encoder, open_encoder
from indexer.errors import ConfigError, ContractError, GateError, IntegrityError
from indexer.index_config import REUSE
from indexer.manifest import ENCODER_FILES, EncoderEntry, GateResult, Manifest, ObjectEntry
from indexer.object_cache import ObjectCache
from indexer.releases.history import History, read_own
from indexer.runs import check_run_date, now_text
from indexer.signature import open_shop_key
from indexer.store import open_store

ONE_WRITER = "only one process at a time may write to this store (shop.single_writer)"


@dataclass
class _Run:
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


def build_release(
    config: Config,
    run_date: str,
    *,
    encoder_directory: Path,
    story: Mapping[str, Any],
    progress: bool = True,
    reuse: str = "all",
    site: Site | None = None,
    dry: bool = False,
) -> ReleaseSummary:
    """Embed, index, verify and publish; a run that was published before is not built again, a `dry` one is planned.

    `reuse`, one of REUSE, says what of the live release is used again where the same encoder made it.
    `story` is what the earlier steps of the night did, for the report: `steps` is a list of
    {step, seconds, counts, rejects}. `site` has the rows and finishes the base shards; by default it is this machine.
    Raises ContractError for bad input, GateError where quality refuses,
    PublishConflictError where another run was first, StoreError where storage fails.
    """
    check_run_date(run_date)
    if reuse not in REUSE:
        raise ConfigError(f"reuse {reuse!r}: expected one of {', '.join(REUSE)}")
    store = open_store(config.shop.release, single_writer=config.shop.single_writer)
    key = open_shop_key(config.shop)
    history = read_own(store, key)
    if key and history.live and history.live.signature is None:
        # What nobody has signed yet is not made part of what is signed.
        reuse = "none"
    options = config.index
    encoder = open_encoder(encoder_directory, threads=options.threads, batch_tokens=options.batch_tokens)
    catalogue = site.identify_catalogue() if site else None
    names = history.list_names(name_run(config, run_date, encoder.fingerprint, catalogue=catalogue))
    live = read_live(store, history) if reuse != "none" else None
    if reuse != "all":
        refuse_older(store, run_date, history)
    elif published := find_published(store, names, run_date, history, live, key, dry=dry):
        return published
    if not dry:
        # It would be a pity to learn it at the commit.
        prove_creates(store, names[-1])
    faiss.omp_set_num_threads(options.threads or faiss.omp_get_max_threads())
    work = Path(config.shop.work) / "build" / f"run_date={run_date}"
    scratch = open_scratch(work)
    cache = ObjectCache(store, scratch / "live")
    try:
        run = _Run(
            config=config,
            run_date=run_date,
            encoder=encoder,
            encoder_directory=encoder_directory,
            # What is not to be used again is not trusted either: sealed objects are read and hashed.
            folder=RunFolder(store, names[-1], cache if reuse == "none" else None, key),
            history=history,
            cache=cache,
            live=find_live(live, cache, encoder=encoder.fingerprint),
            reuse=reuse,
            work=work,
            scratch=scratch,
            site=site or LocalSite(config, run_date, scratch, progress=progress),
            progress=progress,
            dry=dry,
        )
        return _build(run, story)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(run: _Run, story: Mapping[str, Any]) -> ReleaseSummary:
    with run.stage("read"):
        golden = read_golden(run.config.gates.golden)
        plans = _plan(run)
        wanted = frozenset(item.product_id for item in golden)
        names = [plan.intake.collection for plan in plans]
        sampled = {name: run.site.sample_rows(name, count_sampled(run.config)) for name in names}
        ids = {name: run.site.survey_ids(name, wanted if name == "products" else frozenset()) for name in names}
    with run.stage("plan"):
        forecast = _forecast(run, plans, sampled)
        run.site.tell(describe_forecast(forecast, run.config.index))
    if run.dry:
        return _summarise_plan(run, forecast)
    with run.stage("upload encoder"):
        encoder = encoder_entry(_seal_encoder(run))
    with run.stage("embed and index"):
        queries = embed_queries(run.config, run.encoder, sampled, [item.query for item in golden])
        finished = [_finish_collection(run, plan, encoder, queries) for plan in plans]
    gates = [*judge_encoder(run.encoder.description, run.config.gates)]
    with run.stage("compare with live"):
        baseline = find_baseline(run.folder.store, run.run_date, run.history)
        for collection in finished:
            sample, known = ids[collection.name]
            _ask_golden(collection, golden, known)
            collection.drift = _measure_drift(run, collection, baseline, sample)
            collection.gates = judge_collection(collection, _count_live(baseline, collection.name), run.config.gates)
            gates += collection.gates
    refusal = _find_refusal(run, finished, gates)
    report = _write_report(run, {**story, "refused": str(refusal or "")}, finished, gates)
    if refusal:
        raise refusal
    with run.stage("publish"):
        stored = run.folder.upload(report, "report.html")
        canaries = run.folder.upload(write_canaries(run.scratch / "canaries.json", finished), "canaries.json")
        manifest = _describe(run, encoder, finished, gates, report=stored, canaries=canaries)
        entry = publish(run.folder, manifest)
    return ReleaseSummary(
        status="published",
        run_id=run.folder.run_id,
        run_date=run.run_date,
        url=run.folder.store.url,
        sequence=entry.sequence,
        collections=[collection.as_figures() for collection in finished],
        bytes=release_bytes(manifest),
        report=str(report),
        rejects=[row for collection in finished for row in collection.rejects],
        remarks=gather_remarks(finished) | _remark_store(run),
        plan=forecast.as_dict(),
        seconds=run.seconds,
    )


def _plan(run: _Run) -> list[CollectionPlan]:
    description = run.encoder.description
    intakes = [run.site.read_products(description)]
    if find_curated(run.config, run.run_date) is not None:
        queries = run.site.read_queries()
        intakes += [queries] if queries.rows else []
    live = {name: len(found.entry.base) for name, found in run.live.collections.items()}
    return [plan_collection(run.config, intake, live=live.get(intake.collection, 0)) for intake in intakes]


def _forecast(run: _Run, plans: Sequence[CollectionPlan], sampled: Mapping[str, Sequence[Row]]) -> BuildForecast:
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
        bases = run.site.forecast_bases(name, plan.shards, live, keeps=keeps)
        if bases and texts:
            rate = partial(measure_rate, run.encoder, texts, name)
            item = add_bases(
                item,
                bases,
                built=count_built(live.entry.base, bases, options) if keeps and live else plan.shards,
                dimension=description.dimension,
                options=options,
                measure_rate=rate,
            )
        found.append(item)
    encoder = f"{description.name} {description.precision}, {description.dimension} dimensions"
    return BuildForecast(run_id=run.folder.run_id, url=run.folder.store.url, encoder=encoder, collections=tuple(found))


def _summarise_plan(run: _Run, forecast: BuildForecast) -> ReleaseSummary:
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


def _finish_collection(
    run: _Run, plan: CollectionPlan, encoder: EncoderEntry, queries: Mapping[str, ProbeQueries]
) -> FinishedCollection:
    builder = ShardBuilder(
        config=run.config,
        encoder=run.encoder,
        run=run.folder,
        queries=queries,
        folder=run.scratch,
        progress=run.progress,
    )
    live = run.live.collections.get(plan.intake.collection)
    return finish_collection(builder, plan, run.site, encoder, live, keep=run.reuse == "all", turn=run.history.head)


def _seal_encoder(run: _Run) -> SealedEncoder:
    if run.live.encoder:
        for entry in run.live.encoder.objects:
            run.cache.fetch(entry)
        return SealedEncoder(fingerprint=run.encoder.fingerprint, objects=run.live.encoder.objects)
    seal = encoder_seal(run.encoder.fingerprint)
    sealed = run.folder.find_sealed(seal)
    if sealed is not None:
        return sealed
    objects = run.folder.upload_encoder(run.encoder_directory, ENCODER_FILES)
    return run.folder.seal(seal, SealedEncoder(fingerprint=run.encoder.fingerprint, objects=objects))


def _ask_golden(collection: FinishedCollection, golden: Sequence[GoldenQuery], known: set[str]) -> None:
    if golden and collection.name == "products":
        collection.golden = find_golden(
            golden, collection.probe, collection.queries.golden, ef_search=collection.ef_search, known=known
        )


def _measure_drift(run: _Run, collection: FinishedCollection, baseline: Manifest | None, ids: IdSample) -> Drift | None:
    """Compare with the release of an earlier night; one that lost objects or has changed ones is no measure."""
    live = next((item for item in baseline.collections if item.name == collection.name), None) if baseline else None
    if baseline is None or live is None:
        return None
    asked = min(run.config.gates.canaries, collection.queries.sampled)
    if collection.unmeasured:
        # Few kept shards beside a delta of all would look like a release of much that is new.
        collection.remarks["canaries_not_asked"] = f"{len(collection.unmeasured)} shards were kept and not measured"
        asked = 0
    try:
        return measure_drift(
            Baseline(manifest=baseline, collection=live, cache=run.cache),
            new_ids=ids,
            encoder=run.encoder,
            canaries=collection.queries.texts[:asked],
            vectors=collection.queries.vectors[:asked],
            answers=(collection.probe, collection.ef_search),
        )
    except IntegrityError as error:
        collection.remarks["not_compared"] = str(error)
        return None


def _remark_store(run: _Run) -> dict[str, dict[str, Any]]:
    """Return what is odd about the store and its log, as remarks on tables are given."""
    remarks: dict[str, dict[str, Any]] = {}
    if run.config.shop.single_writer:
        remarks["STORE"] = {"writers": ONE_WRITER}
    if run.history.void:
        remarks["LOG"] = {"not_trusted": "; ".join(run.history.void.values())}
    return remarks


def _count_live(baseline: Manifest | None, name: str) -> int:
    return sum(item.rows for item in baseline.collections if item.name == name) if baseline else 0


def _find_refusal(
    run: _Run, finished: Sequence[FinishedCollection], gates: Sequence[GateResult]
) -> ContractError | GateError | None:
    """Return what keeps the release from going live, or None."""
    try:
        _check_rejects(run, finished)
        require_gates(gates)
    except (ContractError, GateError) as refusal:
        return refusal
    return None


def _check_rejects(run: _Run, finished: Sequence[FinishedCollection]) -> None:
    """Raise ContractError where duplicates and empty texts push the rejects over the input's limit."""
    products = finished[0]
    allowed = run.config.catalogue.max_reject_share
    rejected = sum(products.rejected.values())
    if rejected > allowed * products.plan.intake.rows_in:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(products.rejected.items()))
        raise ContractError(
            f"CATALOGUE from {run.config.catalogue.path}: {rejected} of {products.plan.intake.rows_in} rows rejected "
            f"({reasons}), more than the allowed share {allowed}; mend the input or raise max_reject_share"
        )


def _write_report(
    run: _Run, story: Mapping[str, Any], finished: Sequence[FinishedCollection], gates: Sequence[GateResult]
) -> Path:
    """Write the report beside the run's work, also for a release that a gate refuses."""
    page = render_report(
        {
            **story,
            "run_id": run.folder.run_id,
            "run_date": run.run_date,
            "created_at": now_text(),
            "url": run.folder.store.url,
            **({"writers": ONE_WRITER} if run.config.shop.single_writer else {}),
            **tell_build(finished, run.seconds, story.get("steps", ()), run_folder=f"v/{run.folder.run_id}/"),
            "gates": [gate.__dict__ for gate in gates],
            "encoder": {"name": run.encoder.description.name, "parity": dict(run.encoder.description.parity)},
            "versions": read_versions(),
            "config": as_document(run.config),
        }
    )
    path = run.work / f"report-{run.folder.run_id}.html"
    path.write_text(page, encoding="utf-8")
    return path


def _describe(
    run: _Run,
    encoder: EncoderEntry,
    finished: Sequence[FinishedCollection],
    gates: Sequence[GateResult],
    *,
    report: ObjectEntry,
    canaries: ObjectEntry,
) -> Manifest:
    options = run.config.index
    config = {name: as_document(getattr(run.config, name)) for name in ("catalogue", "index", "gates", "curated")}
    del config["catalogue"]["path"], config["gates"]["golden"]
    return Manifest(
        run_id=run.folder.run_id,
        run_date=run.run_date,
        created_at=now_text(),
        parent=run.history.head,
        encoder=encoder,
        collections=tuple(item.as_entry(run.encoder.dimension, options) for item in finished),
        gates=tuple(gates),
        counts={"collections": [item.as_figures() for item in finished]},
        config=config,
        versions=read_versions(),
        report=report,
        canaries=canaries,
    )
