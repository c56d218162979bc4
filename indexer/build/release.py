"""Build and publish a release: plan, rows, shards, gates, report, manifest, commit.

Memory is bounded by the largest shard (see `shard.py`), whatever the size of the catalogue. Finished shards are
sealed in the store, so an interrupted build goes on at the next one. Nothing is visible before the last step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss

from indexer.build.canaries import write_canaries
from indexer.build.collection import finish_collection
from indexer.build.finished import FinishedCollection
from indexer.build.forecast import describe_forecast
from indexer.build.gates import judge_encoder
from indexer.build.golden import read_golden
from indexer.build.live import find_live
from indexer.build.plan import CollectionPlan, hold_scratch, name_run
from indexer.build.publish import RunFolder, SealedEncoder, encoder_entry, encoder_seal, publish
from indexer.build.published import find_published, read_live, refuse_older, remark_rollback
from indexer.build.queries import count_sampled, embed_queries
from indexer.build.recall import ProbeQueries
from indexer.build.run import BuildRun, forecast_run, plan_collections, summarise_plan
from indexer.build.shard import ShardBuilder
from indexer.build.site import LocalSite, Site
from indexer.build.story import gather_remarks
from indexer.build.summary import ReleaseSummary, release_bytes
from indexer.build.verdict import find_refusal, judge_finished, remark_store, write_report
from indexer.build.versions import read_versions
from indexer.config import Config, as_document
from indexer.creation import prove_creates
from indexer.encoder import open_encoder
from indexer.errors import ConfigError, StoreError
from indexer.index_config import REUSE
from indexer.manifest import ENCODER_FILES, EncoderEntry, GateResult, Manifest, ObjectEntry
from indexer.object_cache import ObjectCache
from indexer.releases.history import read_own
from indexer.runs import check_run_date, now_text
from indexer.signature import open_shop_key
from indexer.store import open_store


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
    PublishConflictError where another run was first, StoreError where storage or the work folder fails.
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
        return replace(published, remarks=remark_rollback(history.live))
    if not dry:
        # It would be a pity to learn it at the commit.
        prove_creates(store, names[-1])
    faiss.omp_set_num_threads(options.threads or faiss.omp_get_max_threads())
    work = Path(config.shop.work) / "build" / f"run_date={run_date}"
    with hold_scratch(work) as scratch:
        cache = ObjectCache(store, scratch / "live", copied=key is not None)
        run = BuildRun(
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


def _build(run: BuildRun, story: Mapping[str, Any]) -> ReleaseSummary:
    with run.stage("read"):
        golden = read_golden(run.config.gates.golden)
        plans = plan_collections(run)
        wanted = frozenset(item.product_id for item in golden)
        names = [plan.intake.collection for plan in plans]
        sampled = {name: run.site.sample_rows(name, count_sampled(run.config)) for name in names}
        ids = {name: run.site.survey_ids(name, wanted if name == "products" else frozenset()) for name in names}
    with run.stage("plan"):
        forecast = forecast_run(run, plans, sampled)
        run.site.tell(describe_forecast(forecast, run.config.index))
    if run.dry:
        return summarise_plan(run, forecast)
    with run.stage("upload encoder"):
        encoder = encoder_entry(_seal_encoder(run))
    with run.stage("embed and index"):
        queries = embed_queries(run.config, run.encoder, sampled, [item.query for item in golden])
        finished = [_finish_collection(run, plan, encoder, queries) for plan in plans]
    gates = [*judge_encoder(run.encoder.description, run.config.gates)]
    with run.stage("compare with live"):
        gates += judge_finished(run, finished, golden, ids)
    refusal = find_refusal(run, finished, gates)
    report = write_report(run, {**story, "refused": str(refusal or "")}, finished, gates)
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
        remarks=gather_remarks(finished) | remark_store(run),
        plan=forecast.as_dict(),
        seconds=run.seconds,
    )


def _finish_collection(
    run: BuildRun, plan: CollectionPlan, encoder: EncoderEntry, queries: Mapping[str, ProbeQueries]
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
    turn = len(run.history.lived)
    return finish_collection(builder, plan, run.site, encoder, live, keep=run.reuse == "all", turn=turn)


def _seal_encoder(run: BuildRun) -> SealedEncoder:
    if run.live.encoder and not _find_exchanged(run, run.live.encoder.objects):
        for entry in run.live.encoder.objects:
            run.cache.fetch(entry)
        return SealedEncoder(fingerprint=run.encoder.fingerprint, objects=run.live.encoder.objects)
    seal = encoder_seal(run.encoder.fingerprint)
    sealed = run.folder.find_sealed(seal)
    if sealed is not None:
        return sealed
    objects = run.folder.upload_encoder(run.encoder_directory, ENCODER_FILES)
    if exchanged := _find_exchanged(run, objects):
        raise StoreError(
            f"{run.encoder_directory / exchanged}: was exchanged after the build had read it; let nothing be exported "
            "there while a build runs, and run it again"
        )
    return run.folder.seal(seal, SealedEncoder(fingerprint=run.encoder.fingerprint, objects=objects))


def _find_exchanged(run: BuildRun, objects: Iterable[ObjectEntry]) -> str | None:
    """Return the name of a file that is not what the loaded encoder was made of."""
    read = {"encoder.json": run.encoder.fingerprint, **run.encoder.description.files}
    names = {item.key.rpartition("/")[2]: item.sha256 for item in objects}
    return next((name for name, found in names.items() if found != read[name]), None)


def _describe(
    run: BuildRun,
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
