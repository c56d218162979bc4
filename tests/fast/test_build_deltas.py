"""Nights after the first: what did not change is kept, and the release answers as one that was built anew."""

import json
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.build import base_shard, collection, gates, publish, shard
from indexer.build.answers import OwnTitles
from indexer.build.base_shard import BaseBuilder
from indexer.build.catalogue import Row, shard_of
from indexer.build.changes import compare_rows, is_stale
from indexer.build.digests import digest
from indexer.build.finished import FinishedCollection
from indexer.build.live import LiveCollection, OldRow
from indexer.build.release import build_release
from indexer.config import Config
from indexer.encoder import Encoder
from indexer.errors import ConfigError, GateError, IntegrityError, PublishConflictError
from indexer.index_config import GatesConfig, IndexConfig
from indexer.log import commit_entry, find_damage, live_entry, read_manifest
from indexer.manifest import CollectionEntry, Manifest
from indexer.reader import open_index
from indexer.releases.changes import pin
from indexer.store import LocalStore, open_store

Product = tuple[str, str, str]
QUERIES = ["red mug", "school bag", "running shoes", "cotton shirt", "desk lamp", "baby bottle"]


def night(number: int) -> str:
    return f"2026-11-{number:02d}"


@pytest.fixture
def build(make_shop: Callable[..., Config], encoder_directory: Path) -> Callable[..., Any]:
    """Build a night of so many base shards; options of the index may follow."""

    def run(rows: Sequence[Product], number: int, *, reuse: str = "all", release: str = "", **index: Any) -> Any:
        config = make_shop(rows, **{"shards": 4, "max_stale_share": 0.5} | index)
        if release:
            config = replace(config, shop=replace(config.shop, release=str(Path(config.shop.work).parent / release)))
        directory = encoder_directory
        summary = build_release(
            config, night(number), encoder_directory=directory, story={}, progress=False, reuse=reuse
        )
        return config, {item["name"]: item for item in summary.collections}["products"]

    return run


@pytest.fixture
def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the product texts that are embedded from now on."""
    seen: list[str] = []
    encode_chunks = Encoder.encode_chunks

    def listen(self: Encoder, chunks: Iterable[Sequence[str]], *, kind: str) -> Any:
        chunks = list(chunks)
        seen.extend(text for chunk in chunks for text in chunk if kind == "product")
        return encode_chunks(self, chunks, kind=kind)

    monkeypatch.setattr(Encoder, "encode_chunks", listen)
    # Some texts of kept shards are embedded again to compare, and for nothing else.
    monkeypatch.setattr(base_shard, "EMBEDDED_AGAIN", 0)
    return seen


def live(config: Config) -> tuple[Manifest, CollectionEntry]:
    store = LocalStore(Path(config.shop.release))
    entry = live_entry(store)
    assert entry
    manifest = read_manifest(store, entry)
    return manifest, next(item for item in manifest.collections if item.name == "products")


def answer(config: Config, k: int) -> list[list[tuple[float, str, str | None]]]:
    """Return the hits of every query; those of equal scores in the order of their ids."""
    found = open_index(config.shop.release).search_batch(QUERIES, "products", k)
    return [sorted((-round(hit.score, 4), hit.id, hit.text) for hit in hits) for hits in found]


def scores(config: Config, k: int) -> list[list[float]]:
    return [[score for score, *_ in hits] for hits in answer(config, k)]


def test_a_night_of_few_changes_builds_a_delta_and_keeps_the_base(
    build: Any, products: Any, count_texts: list[str], monkeypatch: pytest.MonkeyPatch
):
    rows = products(400)
    config, _ = build(rows, 1)
    _, before = live(config)
    count_texts.clear()
    built: list[int] = []
    build_index = shard.build_index
    monkeypatch.setattr(shard, "build_index", lambda v, options: built.append(len(v)) or build_index(v, options))
    # Four new titles, one of them a copy of another, one new product, and two that are gone.
    changed = {7: "red steel mug", 90: "blue mug", 200: "blue mug", 311: "green lamp"}
    tonight = [(name, changed.get(at, title), brand) for at, (name, title, brand) in enumerate(rows)][:-2]
    tonight.append(("NEW", "kids school bag 12", "acme"))
    config, figures = build(tonight, 2)
    wanted = ["blue mug | acme", "green lamp | zeta", "kids school bag 12 | acme", "red steel mug | zeta"]
    assert sorted(count_texts) == wanted
    assert figures["embedded"] == 4
    assert built == [5]
    counted = {"rows_in": 399, "rows": 399, "shards": 5, "deltas": 1, "built": 1, "reused": 4, "dead_rows": 6}
    assert {name: figures[name] for name in counted} == counted
    _, after = live(config)
    assert [entry.index for entry in after.base] == [entry.index for entry in before.base]
    assert [entry.ids for entry in after.base] == [entry.ids for entry in before.base]
    assert sum(entry.dead.count for entry in after.base if entry.dead) == 6
    fresh, _ = build(tonight, 2, release="fresh", reuse="none")
    assert scores(config, 20) == scores(fresh, 20)
    assert answer(config, 399) == answer(fresh, 399)


def test_a_night_without_a_change_builds_nothing(build: Any, products: Any, count_texts: list[str]):
    rows = products(200)
    config, _ = build(rows, 1)
    _, before = live(config)
    count_texts.clear()
    # The same rows in another order are another file.
    config, figures = build(rows[::-1], 2)
    assert (figures["built"], figures["reused"], figures["embedded"]) == (0, 4, 0)
    assert count_texts == []
    manifest, after = live(config)
    assert after.shards == before.shards
    assert manifest.run_date == night(2)


def edit(rows: list[Product], draw: random.Random, share: float, serial: int) -> list[Product]:
    """Change, drop and add so large a share of the rows."""
    kept = []
    for name, title, brand in rows:
        kind = draw.random() / share
        if kind < 0.4:
            title = f"{draw.choice(QUERIES)} {serial} {draw.randrange(9)}"
        if kind < 0.4 or kind > 0.7:
            kept.append((name, title, brand))
    added = [(f"N{serial}-{n}", f"{draw.choice(QUERIES)} n{n}", "acme") for n in range(round(len(rows) * share * 0.3))]
    return [*kept, *added]


@pytest.mark.parametrize("max_deltas", [2, 20])
def test_ten_nights_of_edits_answer_as_a_fresh_build(build: Any, products: Any, max_deltas: int):
    draw, rows = random.Random(5), products(300)
    config, _ = build(rows, 1, max_deltas=max_deltas)
    for number in range(2, 12):
        rows = edit(rows, draw, 0.06, number)
        config, figures = build(rows, number, max_deltas=max_deltas)
        assert figures["rows"] == len(rows)
        assert figures["deltas"] <= max_deltas
    index = open_index(config.shop.release)
    hits = index.search_batch(["red mug"], "products", len(rows) + 50)[0]
    titles = {name: title for name, title, _ in rows}
    assert {hit.id: hit.text for hit in hits} == titles
    assert len(hits) == len(rows)
    fresh, _ = build(rows, 11, release="fresh", reuse="none")
    assert scores(config, 20) == scores(fresh, 20)
    assert answer(config, len(rows)) == answer(fresh, len(rows))
    # Compaction needs no embedding, and ends with the shards of a build that never saw an earlier night. Vectors may
    # differ in their last bit: a text's arithmetic depends on the texts that it was embedded with.
    assert build(rows, 12, reuse="vectors", max_deltas=max_deltas)[1]["embedded"] == 0
    for kind in ("ids", "texts", "digests"):
        ours, theirs = ([getattr(entry, kind).sha256 for entry in live(shop)[1].shards] for shop in (config, fresh))
        assert ours == theirs
    assert answer(config, len(rows)) == answer(fresh, len(rows))


def test_a_stale_shard_is_built_anew_and_takes_its_rows_out_of_the_deltas(build: Any, products: Any):
    rows = products(200)
    build(rows, 1, max_stale_share=0.3)
    rows = [(name, f"red mug {at}" if at < 4 else title, brand) for at, (name, title, brand) in enumerate(rows)]
    _, figures = build(rows, 2, max_stale_share=0.3)
    assert (figures["deltas"], figures["dead_rows"], figures["built"]) == (1, 4, 1)
    rows = [(name, f"blue lamp {at}" if at < 100 else title, brand) for at, (name, title, brand) in enumerate(rows)]
    _, figures = build(rows, 3, max_stale_share=0.3, gates=GatesConfig(min_overlap=0))
    # All shards are stale now, and nothing is left in the delta.
    assert (figures["deltas"], figures["dead_rows"], figures["built"], figures["shards"]) == (0, 0, 4, 4)
    assert figures["embedded"] == 100


@pytest.mark.parametrize("shards", [2, 5, 16, 100])
def test_shards_that_change_alike_grow_stale_one_after_another(shards: int):
    def count(stale: int) -> int:
        options = IndexConfig(max_stale_share=0.4)
        return sum(is_stale(options, number=number, rows=1_000, changed=True, stale=stale) for number in range(shards))

    found = [count(stale) for stale in range(200, 401)]
    assert (count(200), found[1], found[-1]) == (0, 1, shards)
    # A twentieth of the way from half the share to all of it is never more than that of the shards and one or two.
    assert all(late - soon <= shards / 20 + 2 for soon, late in zip(found, found[10:], strict=False))


def test_without_deltas_a_row_that_leaves_one_builds_its_shard(build: Any, products: Any):
    rows = products(200)
    build(rows, 1)
    rows[3] = (rows[3][0], "red mug 3", "acme")
    assert build(rows, 2)[1]["deltas"] == 1
    _, figures = build([*rows[:3], *rows[4:]], 3, max_deltas=0)
    assert (figures["built"], figures["deltas"], figures["dead_rows"]) == (1, 0, 0)


def test_without_deltas_only_the_shards_of_changed_rows_are_built(build: Any, products: Any):
    rows = products(200)
    build(rows, 1, max_deltas=0)
    rows[3] = (rows[3][0], "red mug 3", "acme")
    _, figures = build(rows, 2, max_deltas=0)
    assert (figures["deltas"], figures["built"], figures["reused"], figures["embedded"]) == (0, 1, 3, 1)


@pytest.mark.parametrize(
    ("before", "after", "embedded"),
    [
        # Another graph, the same vectors.
        ({}, {"m": 12}, 0),
        ({}, {"ef_construction": 60}, 0),
        # Quantised vectors are not those that were embedded.
        ({"storage": "sq8"}, {"storage": "sq8", "m": 12}, 200),
        # The ids of a shard are others, their vectors are not.
        ({}, {"shards": 3}, 0),
        ({"texts": False}, {}, 0),
    ],
)
def test_other_options_build_every_shard_anew(
    build: Any, products: Any, before: dict[str, Any], after: dict[str, Any], embedded: int
):
    build(products(200), 1, **before)
    _, figures = build(products(200), 2, **after)
    assert (figures["reused"], figures["embedded"], figures["deltas"]) == (0, embedded, 0)


def test_the_number_of_shards_stays_while_it_is_allowed(build: Any, products: Any):
    rows, limits = products(450), {"shards": 0, "max_shard_rows": 100}
    assert build(rows, 1, **limits)[1]["shards"] == 5
    # Four would do.
    assert [build(rows[:390], 2, **limits)[1][name] for name in ("shards", "built")] == [5, 0]
    # Six are needed, and all are built anew from known vectors.
    figures = build([*rows, *((f"N{n}", f"red mug {n}", "acme") for n in range(100))], 3, **limits)[1]
    assert (figures["shards"], figures["built"], figures["deltas"]) == (6, 6, 0)
    assert figures["embedded"] == 60 + 100
    # Two are needed, and more than twice as many do not stay.
    assert build(rows[:190], 4, gates=GatesConfig(max_shrink=1.0), **limits)[1]["shards"] == 2


def test_quantised_shards_are_kept_and_have_deltas(build: Any, products: Any):
    rows = products(200)
    build(rows, 1, storage="sq8")
    rows[3] = (rows[3][0], "red mug 3", "acme")
    config, figures = build(rows, 2, storage="sq8")
    assert (figures["deltas"], figures["reused"], figures["embedded"]) == (1, 4, 1)
    assert open_index(config.shop.release).search("red mug 3", k=1)[0].id == rows[3][0]


def test_rows_without_a_known_word_are_rejected_each_night(build: Any, products: Any):
    rows = [*products(200), ("E1", "中国", ""), ("E2", "中国", "")]
    _, first = build(rows, 1)
    _, second = build(rows[::-1], 2)
    assert (first["rejected"], second["rejected"], second["deltas"], second["rows"]) == (2, 2, 0, 200)
    _, third = build([*rows, ("E3", "red mug", "")], 3)
    assert (third["rejected"], third["deltas"], third["rows"]) == (2, 1, 201)


def test_a_delta_larger_than_a_shard_may_be_is_several(build: Any, products: Any):
    rows = products(400)
    build(rows, 1, shards=2, max_shard_rows=60, max_stale_share=1.0)
    rows = [(name, f"red mug {at}" if at % 5 == 0 else title, brand) for at, (name, title, brand) in enumerate(rows)]
    config, figures = build(rows, 2, shards=2, max_shard_rows=60, max_stale_share=1.0)
    assert (figures["deltas"], figures["built"], figures["rows"]) == (2, 2, 400)
    assert answer(config, 400) == answer(build(rows, 2, release="fresh", reuse="none", shards=2)[0], 400)


def test_an_interrupted_night_goes_on(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    config, _ = build(rows, 1)
    rows[3] = (rows[3][0], "red mug 3", "acme")

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collection.CollectionBuilder, "_take", crash)
        with pytest.raises(KeyboardInterrupt):
            build(rows, 2)
    assert live(config)[0].run_date == night(1)
    _, figures = build(rows, 2)
    assert (figures["built"], figures["reused"], figures["deltas"]) == (0, 5, 1)


def damage(config: Config, key: str) -> None:
    path = Path(config.shop.release) / key
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])


@pytest.mark.parametrize("kind", ["digests", "ids", "index", "texts", "encoder"])
def test_a_live_object_that_was_changed_is_never_published_again(build: Any, products: Any, kind: str):
    rows = products(200)
    config, _ = build(rows, 1)
    manifest, entry = live(config)
    damage(config, manifest.encoder.objects[1].key if kind == "encoder" else getattr(entry.base[0], kind).key)
    with pytest.raises(IntegrityError, match="was changed"):
        build(rows[::-1], 2, kept_probes=4)
    assert live(config)[0].run_date == night(1)
    # From nothing the same night is built without it, whatever was sealed.
    assert build(rows, 1, reuse="none")[1]["rows"] == 200
    assert len(open_index(config.shop.release).search("red mug", k=300)) == 200


def test_kept_shards_are_measured_in_turn(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    config, _ = build(rows, 1)
    damage(config, live(config)[1].base[2].texts.key)
    # A folder is read as a whole before a release goes live, whatever shard has its turn.
    with pytest.raises(IntegrityError, match=r"expected SHA-256 .*; nothing was published"):
        build([*rows[2:], *rows[:2]], 2, kept_probes=1)
    # A bucket is asked for sizes.
    monkeypatch.setattr(publish, "examine_objects", find_damage)
    refused = []
    for number in range(2, 6):
        try:
            build([*rows[number:], *rows[:number]], number, kept_probes=1)
        except IntegrityError:
            refused.append(number)
    # From its turn on, and until somebody mends it: without a release the turn does not pass.
    assert refused == [3, 4, 5]


def test_kept_deltas_have_the_turns_of_base_shards(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    config, _ = build(rows, 1)
    store = open_store(config.shop.release)
    measured: list[int] = []
    probe = BaseBuilder._probe
    monkeypatch.setattr(
        BaseBuilder, "_probe", lambda self, number, *more: measured.append(number) or probe(self, number, *more)
    )
    for number in range(2, 7):
        rows[number] = (rows[number][0], f"red mug {number}", "acme")
        build(rows, number, kept_probes=1)
        # What makes nothing live takes nobody's turn.
        pin(store, live(config)[0].run_id)
    # Deltas 4, 5 and so on are there from the second night on, a night after they were built and measured.
    assert measured == [1, 2, 3, 0, 4, 1, 5]


def test_a_smaller_search_is_measured_on_kept_shards_too(build: Any, products: Any):
    from indexer.index_config import GatesConfig

    rows = products(600)
    build(rows, 1, shards=2, ef_search=128)
    # A graph of so few links, searched with one candidate, finds less than the gate asks.
    strict = GatesConfig(min_recall_10=0.999)
    with pytest.raises(GateError, match=r"products recall@10: expected at least 0\.999"):
        build(rows[::-1], 2, shards=2, ef_search=1, kept_probes=2, gates=strict)


def spoil_kept(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any]) -> None:
    """Let the vectors that are read back of kept shards be others."""
    open_index_of = LiveCollection.open_index

    def read_spoiled(self: LiveCollection, number: int) -> Any:
        index = open_index_of(self, number)
        vectors = index.reconstruct_n(0, index.ntotal)
        index.reconstruct_n = lambda *_: spoil(vectors)
        return index

    monkeypatch.setattr(LiveCollection, "open_index", read_spoiled)


def test_kept_shards_pass_the_gate_on_lengths(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    config, _ = build(rows, 1)
    spoil_kept(monkeypatch, lambda vectors: vectors * 1.01)
    with pytest.raises(GateError, match=r"gate max_norm_error, shard v/.* found length 1\.01"):
        build(rows[::-1], 2)
    assert live(config)[0].run_date == night(1)


def test_kept_vectors_must_be_those_of_their_texts(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    config, _ = build(rows, 1)
    spoil_kept(monkeypatch, lambda vectors: vectors[::-1].copy())
    with pytest.raises(GateError, match=r"products cosine of kept vectors: expected at least 0\.98"):
        build(rows[::-1], 2)
    assert live(config)[0].run_date == night(1)


def test_kept_shards_are_measured_without_their_dead_rows(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    build(rows, 1)
    left_out: list[int] = []
    probe_shard = base_shard.probe_shard

    def listen(*arguments: Any, **options: Any) -> Any:
        left_out.append(len(arguments[4]))
        return probe_shard(*arguments, **options)

    monkeypatch.setattr(base_shard, "probe_shard", listen)
    config, _ = build(rows[20:], 2, kept_probes=4)
    assert sorted(left_out) == sorted(shard.dead.count if shard.dead else 0 for shard in live(config)[1].base)
    assert sum(left_out) == 20


def test_a_shard_whose_rows_all_died_is_built_anew(build: Any, products: Any):
    rows = products(200)
    gone = {name for name, *_ in rows if shard_of(name, 4) == 2}
    build(rows, 1, max_stale_share=1.0)
    rows = [row for row in rows if row[0] not in gone]
    new = [(f"N{n}", f"red mug {n}", "acme") for n in range(200) if shard_of(f"N{n}", 4) == 2]
    config, figures = build([*rows, *new], 2, max_stale_share=1.0)
    assert (figures["built"], figures["dead_rows"], figures["deltas"]) == (1, 0, 0)
    assert figures["rows"] == len(rows) + len(new) == len(open_index(config.shop.release).search("mug", k=999))


def test_a_lost_object_gives_nothing(build: Any, products: Any):
    rows = products(200)
    config, _ = build(rows, 1)
    (Path(config.shop.release) / live(config)[1].shards[0].ids.key).unlink()
    _, figures = build(rows[::-1], 2)
    assert (figures["built"], figures["embedded"]) == (4, 200)


def test_vectors_of_another_encoder_are_never_used(build: Any, products: Any, encoder_directory: Path, tmp_path: Path):
    rows = products(200)
    config, _ = build(rows, 1)
    other = tmp_path / "other encoder"
    shutil.copytree(encoder_directory, other)
    description = json.loads((other / "encoder.json").read_text())
    (other / "encoder.json").write_text(json.dumps({**description, "name": "another"}))
    summary = build_release(config, night(2), encoder_directory=other, story={}, progress=False)
    (figures,) = summary.collections
    assert (figures["embedded"], figures["reused"]) == (200, 0)


def test_the_encoder_of_the_live_release_is_named_again(build: Any, products: Any):
    rows = products(200)
    config, _ = build(rows, 1)
    before = live(config)[0].encoder
    build(rows[::-1], 2)
    assert live(config)[0].encoder == before


def test_a_release_of_format_1_gives_no_shards(make_shop: Any, golden: Path, encoder_directory: Path, products: Any):
    config = make_shop(products(200), shards=2)
    # The catalogue is another one than the golden release's, and there are no queries.
    config = replace(config, gates=GatesConfig(max_exchange=1, min_overlap=0, max_shrink=1))
    shutil.copytree(golden / "release_v1", config.shop.release)
    summary = build_release(config, night(21), encoder_directory=encoder_directory, story={}, progress=False)
    figures = summary.collections[0]
    assert (figures["embedded"], figures["reused"], figures["rows"]) == (200, 0, 200)


def test_rows_in_deltas_and_earlier_dead_rows_make_a_shard_stale(build: Any, products: Any):
    rows = products(200)
    build(rows, 1, shards=1, max_stale_share=0.2)
    for number in (2, 3):
        changed = range((number - 2) * 7, (number - 1) * 7)
        rows = [(n, f"red mug {at}" if at in changed else title, brand) for at, (n, title, brand) in enumerate(rows)]
        _, figures = build(rows, number, shards=1, max_stale_share=0.2)
        # Fourteen are stale after the first night, 28 after the second, and 20 may be, half of the share.
        assert (figures["deltas"], figures["dead_rows"]) == ((1, 7) if number == 2 else (0, 0))


def test_a_full_number_of_deltas_stays_while_nothing_changes(build: Any, products: Any):
    rows = products(200)
    build(rows, 1, max_deltas=1)
    rows[3] = (rows[3][0], "red mug 3", "acme")
    config, _ = build(rows, 2, max_deltas=1)
    before = live(config)[1].shards
    _, figures = build(rows[::-1], 3, max_deltas=1)
    assert (figures["built"], figures["deltas"]) == (0, 1)
    assert live(config)[1].shards == before
    rows[4] = (rows[4][0], "red mug 4", "acme")
    _, figures = build(rows, 4, max_deltas=1)
    assert (figures["built"], figures["deltas"], figures["embedded"]) == (1, 1, 1)
    assert [shard.rows for shard in live(config)[1].deltas] == [2]


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([5] * 9, False),
        ([5] * 10, True),
        ([100] * 10, False),
        # Five shards hold 500 rows, six 501: half of the eleven that there would be at most are five.
        ([50] * 10, True),
        ([50] * 9 + [51], False),
    ],
    ids=["few", "small", "full", "half full", "more than half full"],
)
def test_deltas_are_taken_in_where_half_as_many_hold_their_rows(rows: list[int], taken: bool):
    entry = SimpleNamespace(deltas=[SimpleNamespace(live_rows=count) for count in rows])
    collection = LiveCollection(entry=cast(Any, entry), cache=cast(Any, None))
    assert collection.takes_in(IndexConfig(max_deltas=10, max_shard_rows=100)) == taken


def test_deltas_that_are_full_are_left_as_they_are(build: Any, products: Any):
    options, rows = {"shards": 2, "max_deltas": 2, "max_shard_rows": 12}, products(600)
    build(rows, 1, **options)
    for night, start in ((2, 0), (3, 20)):
        for at in range(start, start + 20):
            rows[at] = (rows[at][0], f"red mug {night} {at}", "acme")
        config, figures = build(rows, night, **options)
        if night == 2:
            before = [shard.index.key for shard in live(config)[1].deltas]
    # To hold 40 rows four shards are needed: those of the night before are two of them.
    assert (figures["deltas"], figures["embedded"], figures["built"]) == (4, 20, 2)
    assert [shard.index.key for shard in live(config)[1].deltas][:2] == before
    hits = open_index(config.shop.release).search_batch(["red mug"], "products", 650)[0]
    assert {hit.id: hit.text for hit in hits} == {name: title for name, title, _ in rows}


def test_a_night_on_a_bucket(build: Any, products: Any, bucket: str, encoder_directory: Path):
    rows = products(200)
    config, _ = build(rows, 1)
    config = replace(config, shop=replace(config.shop, release=bucket))
    build_release(config, night(1), encoder_directory=encoder_directory, story={}, progress=False)
    rows[3] = (rows[3][0], "red mug 3", "acme")
    changed, _ = build(rows, 2, release="elsewhere")
    changed = replace(changed, shop=replace(changed.shop, release=bucket))
    summary = build_release(changed, night(2), encoder_directory=encoder_directory, story={}, progress=False)
    assert (summary.collections[0]["deltas"], summary.collections[0]["embedded"]) == (1, 1)
    index = open_index(bucket, cache=Path(config.shop.work) / "cache")
    assert index.search("red mug 3", k=1)[0].id == rows[3][0]
    assert len(index.search("red mug", k=300)) == 200


def test_after_a_rollback_the_night_compares_with_what_is_live(build: Any, products: Any):
    rows = products(200)
    config, _ = build(rows, 1)
    store = LocalStore(Path(config.shop.release))
    first = live_entry(store)
    assert first
    changed = [(name, f"blue lamp {at}" if at < 20 else title, brand) for at, (name, title, brand) in enumerate(rows)]
    build(changed, 2)
    commit_entry(store, 2, replace(first, sequence=3, kind="rollback", parent=2))
    _, figures = build(changed, 3)
    assert (figures["embedded"], figures["dead_rows"], figures["deltas"]) == (20, 20, 1)
    assert {hit.text for hit in open_index(config.shop.release).search("red mug", k=300)} == {t for _, t, _ in changed}


def test_a_compaction_of_an_older_night_is_refused(build: Any, products: Any):
    build(products(100), 3, shards=1)
    with pytest.raises(PublishConflictError, match="newer night 2026-11-03"):
        build(products(100), 2, shards=1, reuse="vectors")
    with pytest.raises(ConfigError, match="expected one of all, vectors, none"):
        build(products(100), 3, shards=1, reuse="some")


def old(name: str, shard_number: int, row: int, text: str, display: str) -> tuple[str, OldRow]:
    return name, OldRow(shard_number, row, digest(text), digest(display))


def test_rows_are_compared_by_text_and_by_what_is_shown():
    before = dict(
        [
            old("same", 1, 0, "a", "A"),
            old("text", 1, 1, "b", "B"),
            old("shown", 1, 2, "c", "C"),
            old("gone", 1, 3, "d", "D"),
            old("delta", 5, 4, "e", "E"),
            old("gone delta", 6, 7, "f", "F"),
        ]
    )
    rows = [Row("same", "a", "A"), Row("text", "x", "B"), Row("shown", "c", "X"), Row("delta", "e", "E")]
    rows.append(Row("new", "n", "N"))
    found = compare_rows(rows, before, base=4)
    assert [row.id for row in found.fresh] == ["text", "shown", "new"]
    assert found.found == [None, before["shown"], None]
    assert sorted(place.row for place in found.gone) == [1, 2, 3, 7]
    assert found.held == [(rows[3], before["delta"])]


names = st.sampled_from("abcdefgh")
texts = st.sampled_from("xyz")


@given(st.dictionaries(names, st.tuples(texts, texts)), st.dictionaries(names, st.tuples(texts, texts)))
def test_every_live_row_is_kept_or_gone_and_every_row_kept_or_fresh(
    tonight: dict[str, tuple[str, str]], before: dict[str, tuple[str, str]]
):
    rows = [Row(name, *values) for name, values in sorted(tonight.items())]
    live_rows = dict(old(name, number % 3, number, *values) for number, (name, values) in enumerate(before.items()))
    changes = compare_rows(rows, live_rows, base=1)
    same = {name for name, values in tonight.items() if before.get(name) == values}
    assert {row.id for row in changes.fresh} == set(tonight) - same
    assert {place.row for place in changes.gone} == {live_rows[name].row for name in set(before) - same}
    assert {row.id for row, _ in changes.held} == {name for name in same if live_rows[name].shard >= 1}
    pairs = list(zip(changes.fresh, changes.found, strict=True))
    assert all((place is not None) == (row.id in before and before[row.id][0] == row.text) for row, place in pairs)


def test_rows_of_a_delta_that_was_not_measured_are_not_missed(
    build: Any, products: Any, monkeypatch: pytest.MonkeyPatch
):
    """A search for their own text cannot find them, though the base shard of their ids was measured."""
    judged: list[OwnTitles | None] = []
    judge = gates.judge_own_titles
    monkeypatch.setattr(gates, "judge_own_titles", lambda *words: judged.append(words[1]) or judge(*words))
    options: dict[str, Any] = {
        "kept_probes": 1,
        "recall_queries": 200,
        "gates": GatesConfig(min_own_title=0.9, max_exchange=1, max_hub_share=1, min_recall_10=0, min_recall_100=0),
    }
    rows = products(600)
    build(rows, 1, **options)
    rows += [(f"N{number}", f"quite new {number}", "acme") for number in range(185)]
    for number in range(2, 7):
        _, figures = build(rows[number:], number, **options)
        assert figures["deltas"] == 1
    # Of four nights that keep the delta it is measured in one.
    assert (len(judged), judged[:2].count(None), judged[2:].count(None)) == (6, 0, 3)
    assert all(own.found == own.asked for own in judged[1:] if own)


@pytest.mark.parametrize(
    ("hidden", "found", "asked", "expected"),
    [
        (0, 150, 200, OwnTitles(200, 150)),
        (50, 150, 200, OwnTitles(190, 150)),
        (50, 195, 200, OwnTitles(195, 195)),
        (51, 150, 200, None),
    ],
)
def test_so_many_rows_as_lie_in_unmeasured_deltas_are_taken_for_not_asked(
    monkeypatch: pytest.MonkeyPatch, hidden: int, found: int, asked: int, expected: OwnTitles | None
):
    monkeypatch.setattr("indexer.build.finished.count_own_titles", lambda *_, **__: OwnTitles(asked, found))
    shards = [
        SimpleNamespace(number=0, delta=False, live_rows=900 - hidden),
        SimpleNamespace(number=1, delta=True, live_rows=hidden),
        SimpleNamespace(number=2, delta=True, live_rows=100),
    ]
    plain: dict[str, Any] = dict.fromkeys(("plan", "tally", "queries", "probe", "curve"))
    item = FinishedCollection(**plain, shards=cast(Any, shards), shard_curves={0: {}, 2: {}}, ef_search=64)
    assert item.own_titles == expected


def test_a_delta_in_parts_is_dealt_evenly_whichever_shards_its_rows_are_of(build: Any, products: Any):
    rows = products(400)
    options = {"shards": 2, "max_shard_rows": 60, "gates": GatesConfig(min_overlap=0, max_hub_share=1, min_own_title=0)}
    build(rows, 1, **options)
    names = [name for name in (f"N{at}" for at in range(200)) if shard_of(name, 2) == 1][:75]
    tonight = [
        (name, f"blue lamp {at}" if shard_of(name, 2) == 0 else title, brand)
        for at, (name, title, brand) in enumerate(rows)
    ]
    config, figures = build(tonight + [(name, f"red mug {name}", "acme") for name in names], 2, **options)
    assert (figures["rows"], figures["deltas"]) == (475, 2)
    sizes = [shard.rows for shard in live(config)[1].deltas]
    assert sum(sizes) == 75
    assert min(sizes) > 25
