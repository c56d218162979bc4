"""What a build says of itself before it begins, against what it then does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from indexer.build.forecast import (
    BaseForecast,
    CollectionForecast,
    SeenBases,
    Work,
    add_bases,
    choose_bases,
    find_built,
)
from indexer.build.release import build_release
from indexer.build.summary import ReleaseSummary
from indexer.cli.group import indexer
from indexer.config import Config
from indexer.errors import ConfigError
from indexer.index_config import IndexConfig
from indexer.log import read_head
from indexer.manifest import DeadRows, ObjectEntry, ShardEntry
from indexer.store import LocalStore

Shop = Callable[..., Config]
FIRST, SECOND = "2026-11-20", "2026-11-21"


@pytest.fixture
def build(encoder_directory: Path) -> Callable[..., ReleaseSummary]:
    def run(config: Config, run_date: str = FIRST, **options: Any) -> ReleaseSummary:
        return build_release(config, run_date, encoder_directory=encoder_directory, story={}, progress=False, **options)

    return run


def only(summary: ReleaseSummary) -> dict[str, Any]:
    (found,) = summary.plan["collections"]
    return dict(found)


def test_a_first_night_embeds_every_text_once_and_builds_every_shard(make_shop: Shop, build: Any, products: Any):
    rows = [*products(40), *(("Q" + name, title, brand) for name, title, brand in products(40)[:5])]
    planned = build(make_shop(rows, shards=1), dry=True)
    assert planned.status == "planned"
    expected = {"rows": 45, "changed": 45, "gone": 0, "texts": 40, "shards": 1, "built": 1, "rejected": 0}
    assert only(planned).items() >= expected.items()
    assert not list(Path(planned.url).rglob("*.json"))
    built = build(make_shop(rows, shards=1))
    assert built.status == "published"
    assert built.plan["collections"][0]["texts"] == built.collections[0]["embedded"] == 40


def test_a_night_of_changes_says_what_changed(make_shop: Shop, build: Any, products: Any):
    rows = products(400)
    build(make_shop(rows, shards=2))
    # Of the first ten one title is another and one is gone; two are new, one of which has a title that is there.
    tonight = [
        ("P00000", "brand new lamp 777", "acme"),
        *rows[2:],
        ("N1", "red desk 9001", "acme"),
        ("N2", *rows[5][1:]),
    ]
    config = make_shop(tonight, shards=2)
    planned = only(build(config, SECOND, dry=True))
    assert planned.items() >= {"rows": 401, "changed": 3, "gone": 1, "texts": 3, "built": 0}.items()
    built = build(config, SECOND)
    # Only the text of N2 is known: it is embedded again, since it lies in a shard of another id.
    assert built.collections[0]["embedded"] == 3
    new = sum(
        path.stat().st_size for path in Path(built.url).glob(f"v/{built.run_id}/products-*") if "probe" not in path.name
    )
    assert planned["upload_bytes"] == pytest.approx(new, rel=0.35)
    assert only(build(config, "2026-11-22", reuse="vectors", dry=True)).items() >= {"texts": 0, "built": 2}.items()
    assert only(build(config, "2026-11-22", reuse="none", dry=True)).items() >= {"texts": 401, "built": 2}.items()


def test_a_night_that_takes_the_deltas_in_says_so(make_shop: Shop, build: Any, products: Any):
    rows = products(400)
    build(make_shop(rows, shards=1, max_deltas=1))
    for night, serial in ((21, 1), (22, 2)):
        rows = [(f"P{serial:05d}", f"red mug {serial}", "acme") if row[0] == f"P{serial:05d}" else row for row in rows]
        built = build(make_shop(rows, shards=1, max_deltas=1), f"2026-11-{night}")
    # The second delta holds both nights' rows, of which one text is embedded.
    assert only(built).items() >= {"changed": 1, "texts": 1, "built": 0}.items()
    one = only(
        build(make_shop([("P00003", "red mug 3", "acme"), *rows[:3], *rows[4:]], shards=1), "2026-11-23", dry=True)
    )
    assert only(built)["upload_bytes"] > 1.8 * one["upload_bytes"]


def test_bytes_of_a_full_build_are_foreseen(make_shop: Shop, build: Any, products: Any):
    built = build(make_shop(products(500), shards=2))
    written = [path for path in Path(built.url).glob("v/*/products-*") if "probe" not in path.name]
    assert built.plan["collections"][0]["upload_bytes"] == pytest.approx(
        sum(path.stat().st_size for path in written), rel=0.1
    )


def test_a_plan_publishes_nothing_and_a_night_without_a_change_needs_none(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(60))
    build(config)
    store = LocalStore(Path(config.shop.release))
    assert build(make_shop(products(70)), SECOND, dry=True).status == "planned"
    assert read_head(store) == 1
    assert build(make_shop(products(60)), SECOND, dry=True).status == "unchanged"


def test_a_plan_of_a_run_that_was_replaced_does_not_bring_it_back(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(60))
    build(config)
    build(make_shop(products(70)))
    config = make_shop(products(60))
    store = LocalStore(Path(config.shop.release))
    assert build(config, dry=True).status == "to be published again"
    assert read_head(store) == 2
    assert build(config).status == "published again"


def test_a_build_above_the_memory_limit_names_how_many_shards_would_fit(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(50))
    # 500 MiB of libraries; a shard of 50 rows of 32 dimensions is next to nothing.
    with pytest.raises(ConfigError, match=r"products in 1 shards need about 500 MiB, the limit is 307 MiB; no number"):
        build(replace(config, index=replace(config.index, memory_limit_gib=0.3)))
    assert not list(Path(config.shop.release).rglob("log/*"))
    roomy = replace(config, index=replace(config.index, memory_limit_gib=0.5))
    assert build(roomy).status == "published"


def test_the_number_of_shards_that_fits_is_the_smallest(
    make_shop: Shop, products: Any, monkeypatch: pytest.MonkeyPatch
):
    from indexer.build import plan
    from indexer.build.catalogue import Intake

    monkeypatch.setattr(plan, "LIBRARY_BYTES", 0)
    config = make_shop(products(5), memory_limit_gib=1.0)
    found = plan.CollectionPlan(intake=Intake(collection="products", rows=1_000_000), shards=1, shards_wanted=1)
    # A row: 1,000 bytes of texts, 4 * 384 of its vector, as many of each of two copies, 8 * 8 of links and 300 more.
    row_bytes = 1_000 + 12 * 384 + 64 + 300
    assert plan.estimate_peak_bytes(config, found, 384) == row_bytes * 1_000_000
    dealt = plan.estimate_peak_bytes(config, found, 384, compared=True, dealt=True)
    assert dealt == (row_bytes + 400 + 4 * 384) * 1_000_000
    with pytest.raises(ConfigError, match=r"index.shards = 6 would fit"):
        plan.require_memory(config, found, 384, compared=False)
    fits = [row_bytes * (1_000_000 / shards + 4 * (1_000_000 / shards) ** 0.5 + 1) <= 2**30 for shards in (5, 6)]
    assert fits == [False, True]


def test_some_bases_stand_for_all():
    assert list(choose_bases(1)) == [0]
    assert list(choose_bases(2)) == [0, 1]
    assert list(choose_bases(16)) == [0, 8]
    assert list(choose_bases(511)) == [0, 256]
    whole, delta = Work(rows=10, texts=2, name_bytes=40), Work(rows=3, texts=2, name_bytes=20)
    seen = [BaseForecast(number=n, rows=10, changed=2, gone=1, anew=whole, kept=delta) for n in (0, 8)]
    item = CollectionForecast(name="products", rows=160, rejected=0, shards=16, shards_wanted=16, peak_bytes=1)
    options, built = IndexConfig(m=8, storage="sq8"), [number % 4 == 0 for number in range(16)]
    found = add_bases(item, seen, built=built, dimension=4, options=options, measure_rate=lambda count: count / 2)
    assert (found.changed, found.gone, found.texts, found.built) == (32, 16, 32, 4)
    # Four shards are written whole, 10 rows each, of twelve 3 rows: each 4 + 8 * 8 + 20 + 32 bytes, and the names.
    assert found.upload_bytes == 76 * 120 + 4 * 40 + 12 * 20
    assert found.seconds == pytest.approx(160 / 30_000 + 32 / 8 + 76 / 4_000, abs=0.05)


def test_where_all_bases_were_looked_at_each_counts_as_it_is():
    seen = [
        BaseForecast(number=number, rows=rows, changed=1, gone=0, anew=Work(rows, rows, 10 * rows), kept=Work(1, 1, 10))
        for number, rows in ((0, 100), (1, 300))
    ]
    item = CollectionForecast(name="products", rows=400, rejected=0, shards=2, shards_wanted=2, peak_bytes=1)
    found = add_bases(
        item, seen, built=[False, True], dimension=4, options=IndexConfig(), measure_rate=lambda count: count
    )
    assert (found.texts, found.built) == (301, 1)


def test_nothing_to_embed_asks_for_no_rate():
    nothing = Work(rows=0, texts=0, name_bytes=0)
    seen = [BaseForecast(number=0, rows=10, changed=0, gone=0, anew=Work(10, 10, 100), kept=nothing)]
    item = CollectionForecast(name="products", rows=10, rejected=0, shards=1, shards_wanted=1, peak_bytes=1)
    found = add_bases(item, seen, built=[False], dimension=4, options=IndexConfig(), measure_rate=lambda _: 1 / 0)
    assert (found.texts, found.upload_bytes, found.seconds) == (0, 0, 0.0)


def live_shard(number: int, died: int) -> ShardEntry:
    """Return a shard of 100 rows and of some dead ones."""
    none = ObjectEntry(key="v/run/x", bytes=1, sha256="0" * 64)
    dead = DeadRows(count=died, rows=none) if died else None
    names = {"index": none, "ids": none, "texts": None, "fingerprint": "0" * 64}
    return ShardEntry(collection="products", number=number, rows=100 + died, dead=dead, **names)


@pytest.mark.parametrize(
    ("stale", "died", "beside", "expected"),
    [
        # Limits of shards 0 to 3, of 100 rows: 20, 32.4, 24.7, 37.1; those of more live rows are higher.
        (20, (5, 5, 5, 5), (0, 0, 0, 0), []),
        (21, (5, 5, 5, 5), (0, 0, 0, 0), [0]),
        (15, (5, 5, 15, 5), (0, 0, 0, 0), [2]),
        # Rows in deltas make a shard stale without a dead one: 20 and 12 of 120, where the limit is 29.7.
        (10, (0, 0, 0, 0), (0, 0, 20, 20), [2]),
        (10, (0, 0, 0, 0), (0, 40, 0, 40), [1, 3]),
        # What was looked at is known, and what becomes of it becomes of the others, too.
        (10, (90, 0, 0, 0), (90, 0, 0, 0), []),
        (100, (0, 0, 0, 0), (0, 0, 0, 0), [0, 1, 2, 3]),
        # All 20 rows in deltas change again: 40 of 120 rows are stale, as they were; the limits are 24 to 44.5.
        (40, (20, 20, 20, 20), (20, 20, 20, 20), [0, 1, 2]),
    ],
)
def test_shards_to_build_are_told_by_what_is_known_of_each(
    stale: int, died: tuple[int, ...], beside: tuple[int, ...], expected: list[int]
):
    shards = [live_shard(number, rows) for number, rows in enumerate(died)]
    work, rows = Work(rows=1, texts=1, name_bytes=1), 100 + beside[0]
    looked = BaseForecast(number=0, rows=rows, changed=1, gone=0, anew=work, kept=work, stale=stale)
    found = find_built(shards, SeenBases([looked], beside), IndexConfig(max_stale_share=0.4))
    assert [number for number, is_built in enumerate(found) if is_built] == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [((0, 0), [False] * 4), ((1, 0), [True, False, False, False]), ((90, 1), [True] * 4)],
)
def test_without_deltas_a_shard_is_built_for_a_whole_change(changes: tuple[int, int], expected: list[bool]):
    shards, work = [live_shard(number, 0) for number in range(4)], Work(rows=1, texts=1, name_bytes=1)
    looked = [
        BaseForecast(number=number, rows=100, changed=count, gone=0, anew=work, kept=work, stale=count)
        for number, count in zip((0, 2), changes, strict=True)
    ]
    assert find_built(shards, SeenBases(looked, [0] * 4), IndexConfig(max_deltas=0)) == expected


@pytest.mark.parametrize("kind", ["new rows", "others each night", "the same each night"])
def test_the_plan_of_every_night_counts_the_shards_that_are_built(
    make_shop: Shop, build: Any, products: Any, kind: str
):
    rows = products(800)
    build(make_shop(rows, shards=8), "2026-11-01")
    counts = []
    for night in range(2, 9):
        titles = [f"red mug {night} {serial}" for serial in range(60)]
        start = (night - 2) * 60 if kind == "others each night" else 0
        if kind == "new rows":
            rows += [(f"N{night}-{serial}", title, "acme") for serial, title in enumerate(titles)]
        else:
            rows[start : start + 60] = [(rows[start + at][0], title, "acme") for at, title in enumerate(titles)]
        built = build(make_shop(rows, shards=8), f"2026-11-{night:02d}")
        figures = built.collections[0]
        # Beside the delta of the night.
        counts.append((only(built)["built"], figures["built"] - 1))
    # Rows that change each night are stale once.
    assert any(0 < found < 8 for _, found in counts) == (kind != "the same each night")
    assert all(abs(planned - found) <= 1 for planned, found in counts), counts
    assert sum(planned == found for planned, found in counts) >= 5, counts


def test_the_command_shows_the_plan(tmp_path: Path, encoder_directory: Path):
    (tmp_path / "catalogue.csv").write_text(
        "product_id,title,brand\n" + "".join(f"P{n},mug {n},acme\n" for n in range(30))
    )
    (tmp_path / "shop.toml").write_text(
        '[shop]\nwork = "work"\nrelease = "release"\n[catalogue]\npath = "catalogue.csv"\n'
    )
    arguments = [
        "build",
        "--config",
        str(tmp_path / "shop.toml"),
        "--run-date",
        FIRST,
        "--encoder",
        str(encoder_directory),
    ]
    shown = CliRunner().invoke(indexer, [*arguments, "--dry-run", "--memory-limit", "2"])
    assert shown.exit_code == 0, shown.output
    assert "nothing was built" in shown.stdout
    assert json.loads(CliRunner().invoke(indexer, [*arguments, "--dry-run", "--json"]).stdout)["status"] == "planned"
    refused = CliRunner().invoke(indexer, [*arguments, "--memory-limit", "0.1"])
    assert refused.exit_code == 2
    assert "no number of shards would fit" in refused.stderr
