"""Build and publish a release: plan, spool, shards, gates, report, manifest, commit.

Memory is bounded by the largest shard (see `shard.py`), whatever the size of the catalogue. Finished shards are
sealed in the store, so an interrupted build goes on at the next one. Nothing is visible before the last step.
"""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import faiss
from tqdm import tqdm

from indexer.build.catalogue import sample_texts, split_spool, spool_products, spool_queries
from indexer.build.collection import finish_collection
from indexer.build.live import LiveRelease, find_live
from indexer.build.plan import CollectionPlan, describe_plan, find_curated, name_run, open_scratch, plan_collection
from indexer.build.publish import RunFolder, SealedEncoder, encoder_entry, encoder_seal, publish
from indexer.build.published import count_earlier_rows, find_published, refuse_older
from indexer.build.recall import Scores
from indexer.build.report import render_report
from indexer.build.shard import ShardBuilder
from indexer.build.summary import FinishedCollection, ReleaseSummary, release_bytes
from indexer.build.verify import judge_encoder, judge_recall, judge_rows, judge_size, judge_vectors, require_gates
from indexer.build.versions import read_versions
from indexer.config import REUSE, Config, as_document
from indexer.encoder import Encoder, open_encoder
from indexer.errors import ConfigError, ContractError, GateError
from indexer.manifest import ENCODER_FILES, GateResult, Manifest, ObjectEntry
from indexer.object_cache import ObjectCache
from indexer.releases.history import read_history
from indexer.runs import check_run_date, now_text
from indexer.store import open_store

PROBE_WORDS = 4
"""Words of a title that stand for a query where a collection has no other texts to be probed with."""


@dataclass
class _Run:
    """What the stages of one build share."""

    config: Config
    run_date: str
    encoder: Encoder
    encoder_directory: Path
    folder: RunFolder
    head: int
    """Head of the log when the run began: it commits the next entry or none."""
    cache: ObjectCache
    """Objects of the store that are read again, each verified."""
    live: LiveRelease
    reuse: str
    work: Path
    scratch: Path
    progress: bool
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
) -> ReleaseSummary:
    """Embed, index, verify and publish; a run that was published before is not built again.

    `reuse`, one of REUSE, says what of the live release is used again where the same encoder made it.
    `story` is what the earlier steps of the night did, for the report: `steps` is a list of
    {step, seconds, counts, rejects}. Raises ContractError for bad input, GateError where quality refuses,
    PublishConflictError where another run was first, StoreError where storage fails.
    """
    check_run_date(run_date)
    if reuse not in REUSE:
        raise ConfigError(f"reuse {reuse!r}: expected one of {', '.join(REUSE)}")
    store = open_store(config.shop.release)
    history = read_history(store)
    head = history.head
    options = config.index
    encoder = open_encoder(encoder_directory, threads=options.threads, batch_tokens=options.batch_tokens)
    run_id = history.name_unretired(name_run(config, run_date, encoder.fingerprint))
    if reuse != "all":
        refuse_older(store, run_date, head)
    elif published := find_published(store, run_id, run_date, head):
        return published
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
            folder=RunFolder(store, run_id, cache if reuse == "none" else None),
            head=head,
            cache=cache,
            live=find_live(store, head, cache, encoder=encoder.fingerprint) if reuse != "none" else LiveRelease(),
            reuse=reuse,
            work=work,
            scratch=scratch,
            progress=progress,
        )
        return _build(run, story)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(run: _Run, story: Mapping[str, Any]) -> ReleaseSummary:
    with run.stage("read"):
        plans = _plan(run)
        files = {plan.spool.collection: split_spool(plan.spool, plan.shards) for plan in plans}
    with run.stage("embed and index"):
        probes = _embed_probes(run, files)
        finished = [_finish_collection(run, plan, files[plan.spool.collection], probes) for plan in plans]
    with run.stage("upload encoder"):
        sealed = _seal_encoder(run)
    gates = [*judge_encoder(run.encoder.description, run.config.gates)]
    live = count_earlier_rows(run.folder.store, run.run_date, run.head)
    for collection in finished:
        gates += _judge(run, collection, live)
    refusal = _find_refusal(run, finished, gates)
    report = _write_report(run, {**story, "refused": str(refusal or "")}, finished, gates)
    if refusal:
        raise refusal
    with run.stage("publish"):
        stored = run.folder.upload(report, "report.html")
        manifest = _describe(run, sealed, finished, gates, stored)
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
        remarks=_gather_remarks(finished),
        seconds=run.seconds,
    )


def _plan(run: _Run) -> list[CollectionPlan]:
    description = run.encoder.description
    spools = [spool_products(run.config, description, run.scratch, progress=run.progress)]
    if find_curated(run.config, run.run_date) is not None:
        queries = spool_queries(run.config, run.run_date, run.scratch, progress=run.progress)
        spools += [queries] if queries.rows else []
    live = {name: len(found.entry.base) for name, found in run.live.collections.items()}
    plans = [plan_collection(run.config, spool, live=live.get(spool.collection, 0)) for spool in spools]
    if run.progress:
        text = describe_plan(run.config, plans, description, run.folder.store.url, run.folder.run_id)
        tqdm.write(text, file=sys.stderr)
    return plans


def _embed_probes(run: _Run, files: Mapping[str, Sequence[Path]]) -> dict[str, Scores]:
    """Embed texts to measure recall with: curated queries for products, words of titles for the queries."""
    count = run.config.index.recall_queries
    titles = [" ".join(text.split()[:PROBE_WORDS]) for text in sample_texts(files["products"], count)]
    texts = {"products": sample_texts(files.get("queries", ()), count) or titles, "queries": titles}
    return {name: _known(run.encoder, texts[name]) for name in files}


def _known(encoder: Encoder, texts: Sequence[str]) -> Scores:
    """Embed queries, without those that mean nothing to the encoder unless there are no others."""
    encoded = encoder.encode(texts, kind="query")
    known: Scores = encoded.vectors[~encoded.empty]
    return known if len(known) else encoded.vectors


def _finish_collection(
    run: _Run, plan: CollectionPlan, files: Sequence[Path], probes: dict[str, Scores]
) -> FinishedCollection:
    builder = ShardBuilder(
        config=run.config,
        encoder=run.encoder,
        run=run.folder,
        probes=probes,
        folder=run.scratch,
        progress=run.progress,
    )
    live = run.live.collections.get(plan.spool.collection)
    return finish_collection(
        builder, plan, files, live, keep=run.reuse == "all", night=date.fromisoformat(run.run_date).toordinal()
    )


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


def _judge(run: _Run, collection: FinishedCollection, live: Mapping[str, int]) -> list[GateResult]:
    gates = run.config.gates
    rejected = sum(collection.rejected.values())
    collection.gates = [
        judge_rows(collection.name, collection.plan.spool.rows_in, collection.rows, collection.duplicates, rejected),
        *judge_size(collection.name, collection.rows, live, gates),
        judge_vectors(collection.name, collection.tally.norm_error, gates),
        *judge_recall(collection.name, list(collection.shard_recall.values()), collection.recall, gates),
    ]
    return collection.gates


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
    if rejected > allowed * products.plan.spool.rows_in:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(products.rejected.items()))
        raise ContractError(
            f"CATALOGUE from {run.config.catalogue.path}: {rejected} of {products.plan.spool.rows_in} rows rejected "
            f"({reasons}), more than the allowed share {allowed}; mend the input or raise max_reject_share"
        )


def _gather_remarks(finished: Sequence[FinishedCollection]) -> dict[str, dict[str, Any]]:
    return {table: remarks for item in finished for table, remarks in item.plan.spool.remarks.items()}


def _write_report(
    run: _Run, story: Mapping[str, Any], finished: Sequence[FinishedCollection], gates: Sequence[GateResult]
) -> Path:
    """Write the report beside the run's work, also for a release that a gate refuses."""
    build = {
        "step": "build",
        "seconds": round(sum(run.seconds.values()), 1),
        "counts": {
            "inputs": _gather_remarks(finished),
            "stages": dict(run.seconds),
            **{item.name: item.as_figures() for item in finished},
        },
        "rejects": [row for item in finished for row in item.rejects],
    }
    page = render_report(
        {
            **story,
            "run_id": run.folder.run_id,
            "run_date": run.run_date,
            "created_at": now_text(),
            "url": run.folder.store.url,
            "steps": [*story.get("steps", ()), build],
            "gates": [gate.__dict__ for gate in gates],
            "collections": [item.as_figures() for item in finished],
            "shard_recall": {
                item.name: [{"shard": number, **recall._asdict()} for number, recall in item.shard_recall.items()]
                for item in finished
            },
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
    encoder: SealedEncoder,
    finished: Sequence[FinishedCollection],
    gates: Sequence[GateResult],
    report: ObjectEntry,
) -> Manifest:
    options = run.config.index
    config = {name: as_document(getattr(run.config, name)) for name in ("catalogue", "index", "gates", "curated")}
    del config["catalogue"]["path"]
    return Manifest(
        run_id=run.folder.run_id,
        run_date=run.run_date,
        created_at=now_text(),
        parent=run.head,
        encoder=encoder_entry(encoder),
        collections=tuple(item.as_entry(run.encoder.dimension, options) for item in finished),
        gates=tuple(gates),
        counts={"collections": [item.as_figures() for item in finished]},
        config=config,
        versions=read_versions(),
        report=report,
    )
