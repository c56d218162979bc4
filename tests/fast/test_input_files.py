"""Finding an input's files: folders of parts, and objects below a prefix."""

from pathlib import Path

import pytest

from indexer.contracts import schemas
from indexer.contracts.files import local_files
from indexer.contracts.inputs import open_input
from indexer.errors import ConfigError, ContractError
from indexer.input_config import CatalogueConfig


def test_a_folder_is_read_in_name_order_and_hidden_files_are_left_out(tmp_path):
    for name in ("part-1.csv", "part-0.csv", "_SUCCESS", ".part-2.csv.crc"):
        (tmp_path / name).write_text("product_id,title\n1,x\n")
    with local_files(str(tmp_path)) as files:
        assert [file.name for file in files] == ["part-0.csv", "part-1.csv"]


def test_a_folder_still_being_written_is_refused(tmp_path):
    (tmp_path / "day" / "_temporary").mkdir(parents=True)
    with pytest.raises(ContractError, match="still being written"), local_files(str(tmp_path)):
        pass


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
                "in/new/_temporary/c.csv",
            )
            yield from (StoredObject(key, 10) for key in keys if key.startswith(prefix))

        def get_file(self, key, path):
            Path(path).write_text("product_id,title\n1,x\n")

    monkeypatch.setattr("indexer.contracts.files.open_store", lambda url: OneObject())

    def rows(url):
        return len(list(open_input(schemas.CATALOGUE, CatalogueConfig(path=url))))

    assert (rows("s3://bucket/in/c.csv"), rows("s3://bucket/in/day/")) == (1, 1)
    with pytest.raises(ContractError, match="still being written"):
        rows("s3://bucket/in/new")
    with pytest.raises(ContractError, match="s3://bucket/in/none: no such object or folder"):
        rows("s3://bucket/in/none")
    with pytest.raises(ConfigError, match="expected s3://bucket/key"):
        rows("s3://bucket")
