"""Finding an input's files: folders of parts, and objects below a prefix."""

import errno
import os
from datetime import date
from pathlib import Path

import pytest

from indexer.build.plan import name_run
from indexer.config import Config
from indexer.contracts import schemas
from indexer.contracts.days import read_day, span_days
from indexer.contracts.files import download_files, find_files, hash_input, identify_input, local_files
from indexer.contracts.inputs import open_input
from indexer.errors import ConfigError, ContractError
from indexer.input_config import CatalogueConfig


def test_a_folder_is_read_in_name_order_and_hidden_files_are_left_out(tmp_path):
    for name in ("part-1.csv", "part-0.csv", "_SUCCESS", ".part-2.csv.crc"):
        (tmp_path / name).write_text("product_id,title\n1,x\n")
    with local_files(str(tmp_path), section="catalogue") as delivery:
        assert [file.name for file in delivery.files] == ["part-0.csv", "part-1.csv"]


def test_files_of_hidden_folders_are_left_out_unless_they_are_named(tmp_path):
    hidden = (".ipynb_checkpoints/part-0.csv", "_old/day/part-0.csv", "_delta_log/0.json")
    for name in ("part-0.csv", "day/1.csv", *hidden):
        (tmp_path / "_in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_in" / name).write_text("product_id,title\n1,x\n")

    def names(path):
        with local_files(str(path), section="catalogue") as delivery:
            return [file.relative_to(tmp_path / "_in").as_posix() for file in delivery.files]

    assert names(tmp_path / "_in") == ["day/1.csv", "part-0.csv"]
    assert names(tmp_path / "_in" / "_old") == ["_old/day/part-0.csv"]
    assert names(tmp_path / "_in" / "_delta_log" / "0.json") == ["_delta_log/0.json"]


def test_linked_folders_are_part_of_an_input(tmp_path):
    target = tmp_path / "elsewhere" / "day"
    target.mkdir(parents=True)
    (target / "part-1.csv").write_text("product_id,title\n1,x\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-0.csv").write_text("product_id,title\n2,y\n")
    (tmp_path / "in" / "day").symlink_to(target)
    files = find_files(tmp_path / "in", section="catalogue")
    assert [file.relative_to(tmp_path / "in").as_posix() for file in files] == ["day/part-1.csv", "part-0.csv"]
    before = identify_input(tmp_path / "in")
    assert [name for name, _ in before] == ["day/part-1.csv", "part-0.csv"]
    (target / "part-1.csv").write_text("product_id,title\n3,z\n")
    assert identify_input(tmp_path / "in") != before


def test_links_to_what_is_read_anyway_are_passed_over(tmp_path):
    """As a volume of Kubernetes looks, and a folder of days with its newest."""
    (tmp_path / "..2026_11").mkdir()
    (tmp_path / "..2026_11" / "part-0.csv").write_text("product_id,title\n1,x\n")
    (tmp_path / "..data").symlink_to("..2026_11")
    (tmp_path / "part-0.csv").symlink_to("..data/part-0.csv")
    (tmp_path / "2026-11-20").mkdir()
    (tmp_path / "2026-11-20" / "part-1.csv").write_text("product_id,title\n1,x\n")
    (tmp_path / "latest").symlink_to("2026-11-20")
    (tmp_path / "latest.csv").symlink_to("2026-11-20/part-1.csv")
    files = find_files(tmp_path, section="catalogue")
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["2026-11-20/part-1.csv", "part-0.csv"]
    assert [name for name, _ in identify_input(tmp_path) if not name.startswith(".")] == [
        "2026-11-20/part-1.csv",
        "part-0.csv",
    ]


def test_links_within_a_linked_folder_are_passed_over(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "input"
    (elsewhere / "2026-11-20").mkdir(parents=True)
    (elsewhere / "2026-11-20" / "part-1.csv").write_text("product_id,title\n1,x\n")
    (elsewhere / "latest").symlink_to("2026-11-20")
    folder.mkdir()
    (folder / "days").symlink_to(elsewhere)
    (folder / "latest.csv").symlink_to("../elsewhere/2026-11-20/part-1.csv")
    files = find_files(folder, section="catalogue")
    assert [file.relative_to(folder).as_posix() for file in files] == ["days/2026-11-20/part-1.csv"]
    assert [name for name, _ in identify_input(folder)] == ["days/2026-11-20/part-1.csv"]


def test_a_model_whose_files_share_a_blob_has_both(tmp_path):
    """As the cache of a model hub keeps them."""
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "model" / name).symlink_to("../blob")
    assert [name for name, _ in identify_input(tmp_path / "model")] == ["config.json", "tokenizer.json"]


def link_file_twice(folder):
    (folder.parent / f"{folder.name}.csv").write_text("product_id,title\n1,x\n")
    for name in ("one.csv", "two.csv"):
        (folder / name).symlink_to(f"../{folder.name}.csv")


def add_loop(folder):
    (folder / "day").mkdir()
    (folder / "day" / "up").symlink_to(folder)


def link_twice(folder):
    (folder.parent / f"{folder.name}-elsewhere").mkdir()
    for name in ("one", "two"):
        (folder / name).symlink_to(f"../{folder.name}-elsewhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_loop, "up: is linked twice or into itself"),
        (link_twice, "is linked twice or into itself"),
        (link_file_twice, r"two\.csv: is linked twice"),
        (lambda folder: (folder / "part-1.csv").symlink_to("gone.csv"), r"part-1\.csv: expected a file, found a link"),
        (lambda folder: os.mkfifo(folder / "part-1.csv"), r"part-1\.csv: expected a file, found a link .* or a device"),
    ],
)
def test_what_would_vanish_or_count_twice_is_refused(tmp_path, spoil, message):
    (tmp_path / "part-0.csv").write_text("product_id,title\n1,x\n")
    spoil(tmp_path)
    with pytest.raises(ContractError, match=message):
        find_files(tmp_path, section="catalogue")


@pytest.mark.parametrize("name", ["day", "_old", "lost+found"])
def test_a_folder_that_may_not_be_read_is_refused_unless_it_is_hidden(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    (tmp_path / "part-0.csv").write_text("product_id,title\n1,x\n")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    if name == "day":
        with pytest.raises(ContractError, match="day: cannot be read: Permission denied; let the job read it"):
            find_files(tmp_path, section="catalogue")
    else:
        assert [file.name for file in find_files(tmp_path, section="catalogue")] == ["part-0.csv"]


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ContractError, match=r"part-0\.csv: cannot be read: .*Permission denied") as caught:
        hash_input(tmp_path / "part-0.csv")
    assert caught.value.exit_code == 3


def test_a_folder_still_being_written_is_refused(tmp_path):
    (tmp_path / "day" / "_temporary").mkdir(parents=True)
    with pytest.raises(ContractError, match="still being written"), local_files(str(tmp_path), section="labels"):
        pass


@pytest.mark.parametrize(("path", "error"), [("", ConfigError), ("absent.csv", ContractError)])
def test_an_index_without_its_catalogue_names_the_setting(path, error):
    config = Config(catalogue=CatalogueConfig(path=path))
    with pytest.raises(error, match=r"\[catalogue\] path"):
        name_run(config, "2026-11-20", "encoder")


def test_s3_input_is_downloaded(tmp_path, monkeypatch):
    class OneObject:
        def list(self, prefix):
            from indexer.store import StoredObject

            keys = (
                "in/c.csv",
                "in/c.csv.bak",
                "in/day/",
                "in/day/a%3Ab c.csv",
                "in/day/_SUCCESS",
                "in/day/.ipynb_checkpoints/a.csv",
                "in/day/_old/a.csv",
                "in/day/_delta_log/0.json",
                "in/new/_temporary/c.csv",
                "in/_temporary/kept/c.csv",
                "in/_export.csv",
            )
            yield from (StoredObject(key, 10) for key in keys if key.startswith(prefix))

        def get_file(self, key, path):
            Path(path).write_text("product_id,title\n1,x\n")

    monkeypatch.setattr("indexer.contracts.files.open_store", lambda url: OneObject())

    def rows(url):
        return sum(batch.num_rows for batch in open_input(schemas.CATALOGUE, CatalogueConfig(path=url)))

    assert (rows("s3://bucket/in/c.csv"), rows("s3://bucket/in/day/")) == (1, 1)
    assert (rows("s3://bucket/in/_export.csv"), rows("s3://bucket/in/_temporary/kept")) == (1, 1)
    assert rows("s3://bucket/in/day/_old") == 1
    with pytest.raises(ContractError, match="still being written"):
        rows("s3://bucket/in/new")
    with pytest.raises(ContractError, match="s3://bucket/in/none: no such object or folder"):
        rows("s3://bucket/in/none")
    with pytest.raises(ConfigError, match="expected s3://bucket/key"):
        rows("s3://bucket")


def test_of_daily_files_those_of_the_days_are_taken(tmp_path, monkeypatch):
    days = span_days(date(2026, 11, 20), lookback_days=2)
    names = ["event_date=2026-11-19/part-0.csv", "2026-11-01 to 2026-11-20.csv", "event_date=2026-11-18/a.csv"]
    for name in names:
        path = tmp_path / "2026-01-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    root = tmp_path / "2026-01-01"
    assert [file.relative_to(root).as_posix() for file in find_files(root, section="x", days=days)] == names[1::-1]

    class Bucket:
        def list(self, prefix):
            from indexer.store import StoredObject

            yield from (StoredObject(f"{prefix}/{name}", 10) for name in names)

        def get_file(self, key, path):
            Path(path).write_text(key)

    monkeypatch.setattr("indexer.contracts.files.open_store", lambda url: Bucket())
    (tmp_path / "in").mkdir()
    files, _ = download_files("s3://bucket/2026-01-01", tmp_path / "in", days=days)
    assert [file.name for file in files] == [
        "000000-2026-11-19-part-0.csv",
        "000001-2026-11-20-2026-11-01_to_2026-11-20.csv",
    ]
    assert [read_day(str(file)) for file in files] == [date(2026, 11, 19), date(2026, 11, 20)]
    (root / "notes.csv").write_text("x")
    with pytest.raises(ContractError, match=r"notes\.csv names no day"):
        find_files(root, section="x", days=days)


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("2010-12-01.csv", date(2010, 12, 1)),
        ("a/event_date=2010-12-01/2010-12-02_b.csv.gz", date(2010, 12, 2)),
        ("12010-12-01.csv", None),
        ("2010-12-011.csv", None),
        ("2010-13-01.csv", None),
        ("201012.csv", None),
    ],
)
def test_the_day_of_a_path_is_the_last_one_in_it(name, day):
    assert read_day(name) == day
