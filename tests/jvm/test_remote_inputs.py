"""Inputs that a cluster reads from a store: Hadoop's own overlay puts a local folder behind `s3a://bucket`."""

import gzip

import pytest

from indexer.contracts import schemas
from indexer.errors import ContractError
from indexer.input_config import InputConfig
from spark import inputs
from spark.inputs import locate_input
from spark.tables import read_input

pytestmark = pytest.mark.jvm

GOOD = "query,product_id,purchases\ncup,p1,3\n"


@pytest.fixture
def deliver(session, tmp_path, monkeypatch):
    """Put files behind s3://bucket/in and read them as a job on a cluster would."""
    settings = {
        "fs.s3a.impl": "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme",
        "fs.s3a.impl.disable.cache": "true",
        "fs.viewfs.overload.scheme.target.file.impl": "org.apache.hadoop.fs.LocalFileSystem",
        "fs.viewfs.mounttable.bucket.link./in": (tmp_path / "in").as_uri(),
    }
    configuration = session.sparkContext._jsc.hadoopConfiguration()
    for key, value in settings.items():
        configuration.set(key, value)
    # The shared session is a local one, which would download the objects by boto3.
    monkeypatch.setattr(inputs, "runs_here", lambda session: False)

    def go(files, path="s3://bucket/in", **options):
        for name, content in files.items():
            file = tmp_path / "in" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode()
            file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        source = InputConfig(path=path, **options)
        location = locate_input(session, source, section="purchases", staging=tmp_path / "staging")
        rows = read_input(session, schemas.RAW_PURCHASES, location, source).rows
        return sorted((row.query, row.product_id, row.purchases) for row in rows.collect()), location

    yield go
    for key in settings:
        configuration.unset(key)


def test_every_file_below_the_address_is_read(deliver):
    files = {"b.csv": GOOD, "day 1/deep/a.csv.gz": GOOD.replace("cup", "mug"), "empty.csv": "", "_SUCCESS": ""}
    rows, location = deliver(files, success_file=True)
    assert rows == [("cup", "p1", 3), ("mug", "p1", 3)]
    assert location.files == ("s3a://bucket/in/b.csv", "s3a://bucket/in/day 1/deep/a.csv.gz")


def test_an_object_that_is_named_in_full_needs_no_mark_of_its_writer(deliver):
    rows, location = deliver({"a.csv": GOOD, "b.csv": GOOD}, path="s3://bucket/in/a.csv", success_file=True)
    assert rows == [("cup", "p1", 3)]
    assert location.files == ("s3a://bucket/in/a.csv",)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a.csv": GOOD, "b.csv": "product_id,query,purchases\np1,cup,3\n"}, {}, "one header in all files, found 2"),
        ({"a.csv": GOOD, "_temporary/0/b.csv": GOOD}, {}, "still being written"),
        ({"a.csv": GOOD}, {"success_file": True}, "no _SUCCESS"),
        ({"a.csv": GOOD, "b.tsv": GOOD.replace(",", "\t")}, {}, "files of one kind"),
        ({"a.csv": ""}, {}, "0 rows"),
        ({"a.csv": GOOD}, {"path": "s3://bucket/in/none"}, "no such object or folder"),
        ({"a.csv": "query,query,product_id\nx,y,z\n"}, {}, "appears twice"),
    ],
)
def test_deliveries_that_cannot_be_used_are_refused(deliver, files, options, message):
    with pytest.raises(ContractError, match=message):
        deliver(files, **options)
