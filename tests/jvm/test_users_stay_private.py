"""Purchases that name their users: nothing that the night keeps or publishes has one."""

import json

import pytest

from indexer.build.night import collect_story
from indexer.build.release import build_release
from indexer.config_file import load_config
from jobs import curated_queries, purchase_gram, taxonomy_labels
from jobs.command import describe_commit, format_commit

pytestmark = pytest.mark.jvm

DATE = "2026-11-20"
WORDS = ("steel mug", "red mug", "baby bottle", "school bag", "green lamp", "blue shirt")
JOBS = (purchase_gram, taxonomy_labels, curated_queries)


def test_no_user_is_in_any_file_or_account(session, tmp_path, encoder_directory):
    users = [f"shopper-{n:03d}@home" for n in range(60)]
    rows = [f"{WORDS[n % 6]},P{n % 12},9,{DATE},{user}" for n, user in enumerate(users * 3)]
    bad = [f"mug,P1,-1,{DATE},{users[0]}", f"mug,P1,x,{DATE},{users[1]}", f"mug,P1,1,{DATE},{users[2]},too many"]
    given = tmp_path / "given"
    given.mkdir()
    lines = "\n".join(["query,product_id,purchases,event_date,user_id", *rows, *bad, ""])
    (given / "purchases.csv").write_text(lines)
    titles = [f"P{n},{WORDS[n % 6]} {n},{WORDS[n % 6].split()[-1]}" for n in range(40)]
    (given / "catalogue.csv").write_text("product_id,title,category_path\n" + "\n".join(titles) + "\n")
    (given / "shop.toml").write_text(
        f'[shop]\nwork = "{tmp_path / "work"}"\nrelease = "{tmp_path / "live"}"\n'
        '[purchases]\npath = "purchases.csv"\nmax_reject_share = 0.5\nmin_users = 2\nmax_user_day = 1000\n'
        '[catalogue]\npath = "catalogue.csv"\n'
        "[gates]\ntables_with_rows = []\nmin_own_title = 0.0\nmax_hub_share = 1.0\n"
        "[index]\nm = 8\nef_construction = 40\n"
    )
    config = load_config(str(given / "shop.toml"), environment={})
    said = []
    for job in JOBS:
        commit = job.run(session, config, DATE)
        said += [format_commit(describe_commit(commit, built=True)), json.dumps(commit.rejects)]
    story = collect_story(config, DATE)
    summary = build_release(config, DATE, encoder_directory=encoder_directory, story=story, progress=False)
    assert summary.status == "published"
    assert {item["name"] for item in summary.collections} == {"products", "queries"}
    said.append(json.dumps(summary.as_dict()))
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and given not in path.parents]
    assert len(kept) > 25
    for user in ("shopper-", "@home"):
        assert [text for text in said if user in text] == []
        assert [path.name for path in kept if user.encode() in path.read_bytes()] == []
