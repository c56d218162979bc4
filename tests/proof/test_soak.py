"""Some nights of a shop on a store that fails; and that what would be left over is seen."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from indexer.releases import garbage
from indexer.store import DRAFT
from tests.proof import soak
from tests.proof.forks import open_folder


def test_nights_with_faults_leave_nothing_that_nobody_needs():
    with open_folder() as folder:
        lived, found = soak.run_nights(folder / "shop", 14, settled=10, seed=6)
    assert lived.seen["published"] == 14
    # Which call is lost, and what people do, changes with every call that is added.
    assert lived.seen["faults"] > 2
    for name in ("compaction published", "given up"):
        assert lived.seen[name], lived.seen
    assert lived.seen["pin"] + lived.seen["rollback"] > 0, lived.seen
    assert found["files"] == 0


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_find_abandoned", lambda *_: []),
        ("_find_building", lambda stored, past, *_: set(stored) - set(past.releases)),
        ("_is_recent", lambda *_: True),
    ],
)
def test_a_collection_that_leaves_something_is_noticed(name: str, broken: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(garbage, name, broken)
    with open_folder() as folder, pytest.raises(AssertionError, match=r"killed|v/2026|is kept"):
        soak.run_nights(folder / "shop", 14)


def test_empty_folders_and_old_drafts_are_leaks(tmp_path: Path):
    with open_folder() as folder:
        shop = soak.Shop(folder / "shop").write(soak.list_products(40), shards=1)
        shop.build(1)
        empty, draft = (shop.store.root / "v" / name for name in ("empty", f"{DRAFT}{1:032x}"))
        empty.mkdir()
        draft.write_bytes(b"half")
        before = datetime.now(UTC) - soak.RULE.grace
        assert soak.find_leaks(shop.store, before) == []
        for path in (empty, draft):
            os.utime(path, (0, time.time() - 3 * soak.DAY.total_seconds()))
        assert sorted(soak.find_leaks(shop.store, before)) == sorted(map(str, (empty, draft)))
