"""Canaries: queries of a release with the builder's own answers, which whoever opens the release must get, too.

A build that keeps shards measures some of them a night; the answers are those of the measured shards alone. The
queries' vectors stand beside their texts, so that the index is asked the same whatever the processor.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from indexer.encoder import MIN_SELF_TEST_COSINE, Vectors
from indexer.errors import IntegrityError, ManifestError
from indexer.index_config import MAX_EF
from indexer.loaded_release import LoadedRelease, Place, search_shards
from indexer.loaded_shard import LoadedShard
from indexer.manifest import COLLECTION
from indexer.search_pool import SearchPool
from indexer.strict_json import Record, check_format, parse_record, write_document

FORMAT = 1
HITS = 10
TIE = 1e-5
"""Scores closer than this may change places: processors round sums of products otherwise."""
SCORE_ERROR = 1e-4
"""Most that a score may differ from the builder's."""
LENGTH_ERROR = 0.05
"""Most that the length of a stored vector may differ from 1: quantised ones are rounded."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A query and its best hits, best first."""

    query: str
    vector: tuple[float, ...]
    ids: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class CollectionCanaries:
    """The canaries of one collection."""

    collection: str
    shards: tuple[int, ...]
    """Numbers of the shards that were asked."""
    ef_search: int
    queries: tuple[Canary, ...]


def render_canaries(collections: Sequence[CollectionCanaries]) -> bytes:
    """Return the bytes of a file of canaries."""
    return write_document({"format": FORMAT, "collections": [asdict(item) for item in collections]})


def parse_canaries(data: bytes, place: str) -> tuple[CollectionCanaries, ...]:
    """Read a file of canaries; raises ManifestError naming the field that breaks the format."""
    record = parse_record(data, place, ManifestError)
    check_format(record, FORMAT)
    found = tuple(_read_collection(item) for item in record.records("collections"))
    record.finish()
    return found


def check_answers(release: LoadedRelease, canaries: Sequence[CollectionCanaries], place: str) -> None:
    """Raise IntegrityError unless a release answers as the builder's did, to the last id."""
    for item in canaries:
        _check_collection(release, item, place)


def check_shard(shard: LoadedShard, ef_search: int, place: str) -> None:
    """Raise IntegrityError unless ids and texts are UTF-8, each id stands once, and a row finds what can be an answer.

    Needs no canaries, which releases of format 1 and 2 do not have.
    """
    for lines in (shard.ids, shard.texts):
        if lines is not None:
            lines.check_encoding()
    _check_ids(shard, place)
    _ask_itself(shard, ef_search, place)


def _check_ids(shard: LoadedShard, place: str) -> None:
    """Raise IntegrityError where an id of a shard stands twice."""
    hashes = shard.ids.hash_all()
    values, counts = np.unique(hashes, return_counts=True)
    for value in values[counts > 1]:
        lines = [shard.ids.line(int(row)) for row in np.flatnonzero(hashes == value)]
        if len(set(lines)) != len(lines):
            raise IntegrityError(f"{place}: id {lines[0][:80]!r} stands twice in a shard")


def _ask_itself(shard: LoadedShard, ef_search: int, place: str) -> None:
    """Search a shard for one of its own vectors."""
    row, live = (0, len(shard.ids)) if shard.live is None else (int(shard.live.rows[0]), shard.live.count)
    vector = np.asarray(shard.index.reconstruct(row), dtype=np.float32)[None]
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) <= LENGTH_ERROR:
        raise IntegrityError(f"{place}, row {row}: expected a vector of length 1, found {length}")
    places = search_shards(SearchPool(1), (shard,), (shard.live,), vector, HITS, ef_search)[0]
    if not 1 <= len(places) <= live or not all(abs(hit.score) <= 1 + LENGTH_ERROR for hit in places):
        raise IntegrityError(
            f"{place}, row {row}: expected 1 to {min(HITS, live)} hits with cosines, found "
            f"{[hit.score for hit in places]}"
        )
    for hit in places:
        shard.id(hit.row)
        shard.text(hit.row)


def _check_collection(release: LoadedRelease, item: CollectionCanaries, place: str) -> None:
    shards = release.shards.get(item.collection, ())
    if not set(item.shards) <= set(range(len(shards))):
        raise IntegrityError(f"{place}: canaries of {item.collection} name shards {item.shards} of {len(shards)}")
    asked = tuple(shards[number] for number in item.shards)
    selections = tuple(shard.live for shard in asked)
    vectors = np.array([canary.vector for canary in item.queries], dtype=np.float32)
    if not len(vectors) or vectors.shape[1] != release.encoder.dimension:
        raise IntegrityError(f"{place}: canaries of {item.collection}: expected vectors of {release.encoder.dimension}")
    _check_encoder(release, item, vectors, place)
    answers = search_shards(SearchPool(1), asked, selections, vectors, HITS, item.ef_search)
    for canary, places in zip(item.queries, answers, strict=True):
        problem = _find_difference(canary, places)
        if problem:
            raise IntegrityError(f"{place}: {item.collection}: canary {canary.query!r}: {problem}")


def _check_encoder(release: LoadedRelease, item: CollectionCanaries, vectors: Vectors, place: str) -> None:
    encoder = release.encoder
    least = MIN_SELF_TEST_COSINE[encoder.description.precision]
    found = encoder.encode([canary.query for canary in item.queries], kind="query").vectors
    cosines = np.einsum("qd,qd->q", found, vectors)
    worst = int(np.argmin(np.where(np.isfinite(cosines), cosines, -np.inf)))
    if not cosines[worst] >= least:
        raise IntegrityError(
            f"{place}: canary {item.queries[worst].query!r}: expected a cosine of {least} with the vector that the "
            f"builder had, found {cosines[worst]:.4f}; the encoder is not the one of the index"
        )


def _find_difference(canary: Canary, places: Sequence[Place]) -> str:
    """Return what differs from the builder's answer, or nothing."""
    found = [place.shard.id(place.row) for place in places]
    scores = [place.score for place in places]
    if len(found) != len(canary.ids):
        return f"expected {len(canary.ids)} hits, found {len(found)}"
    for expected, score in zip(canary.scores, scores, strict=True):
        if not abs(expected - score) <= SCORE_ERROR:
            return f"expected a score of {expected:.6f}, found {score:.6f}"
    for name, score in zip(canary.ids, canary.scores, strict=True):
        if name not in found and score > canary.scores[-1] + TIE:
            return f"expected {name} among the hits, found {', '.join(found)}"
    known = dict(zip(canary.ids, canary.scores, strict=True))
    for name, score in zip(found, scores, strict=True):
        if abs(known.get(name, canary.scores[-1]) - score) > (SCORE_ERROR if name in known else TIE):
            return f"did not expect {name} of score {score:.6f}"
    return ""


def _read_collection(record: Record) -> CollectionCanaries:
    shards = record.values("shards")
    if not shards or not all(type(number) is int and number >= 0 for number in shards):
        record.refuse("numbers of shards", shards, "shards")
    item = CollectionCanaries(
        collection=record.text("collection", pattern=COLLECTION),
        shards=tuple(shards),
        ef_search=record.integer("ef_search", minimum=1, maximum=MAX_EF),
        queries=tuple(_read_canary(query) for query in record.records("queries")),
    )
    record.finish()
    return item


def _read_canary(record: Record) -> Canary:
    ids = record.values("ids")
    if not ids or not all(isinstance(name, str) for name in ids):
        record.refuse("ids", ids, "ids")
    canary = Canary(
        query=record.text("query"),
        vector=_read_numbers(record, "vector"),
        ids=tuple(ids),
        scores=_read_numbers(record, "scores"),
    )
    record.finish()
    if len(canary.ids) != len(canary.scores):
        record.refuse(f"{len(canary.ids)} scores", len(canary.scores), "scores")
    return canary


def _read_numbers(record: Record, name: str) -> tuple[float, ...]:
    values = record.values(name)
    if not all(type(value) in (int, float) and abs(value) <= 2 for value in values):
        record.refuse("numbers from -2 to 2", values, name)
    return tuple(float(value) for value in values)
