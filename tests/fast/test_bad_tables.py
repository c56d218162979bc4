"""Bad files and bad rows (tests/bad_inputs), through the reader that needs no Spark."""

import pytest

from indexer.contracts import preflight
from indexer.contracts.files import SUCCESS
from indexer.contracts.inputs import open_input
from indexer.contracts.rejects import describe_unknown
from indexer.errors import ContractError
from indexer.input_config import CatalogueConfig
from indexer.store import StoredObject
from tests.bad_inputs.lines import line
from tests.bad_inputs.tables import HEAD, JUDGED, REFUSED, ROWS, Delivery, parquet


def read(table, source):
    reader = open_input(table, source)
    return [row for batch in reader for row in batch.to_pylist()], reader.counts


@pytest.mark.parametrize("delivery", REFUSED)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, delivery):
    with pytest.raises(ContractError, match=delivery.refused) as caught:
        read(delivery.table, delivery.write(tmp_path))
    assert caught.value.exit_code == 3
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("delivery", JUDGED)
def test_a_bad_row_is_rejected_or_mended_and_the_others_stay(tmp_path, delivery):
    rows, counts = read(delivery.table, delivery.write(tmp_path))
    assert tuple(sorted(row["product_id"] for row in rows)) == delivery.kept
    assert {reason: reject.count for reason, reject in counts.rejects.items()} == delivery.reasons
    assert counts.rows_in == len(rows) + counts.rejected
    assert counts.fixes | describe_unknown(counts.unknown_columns) == delivery.counted


@pytest.mark.parametrize("limit", [line(34, 8_999)])
def test_a_row_group_without_measure_is_refused(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(preflight, "MAX_GROUP_ROWS", limit)
    delivery = Delivery(files={"c.parquet": parquet(ROWS)})
    with pytest.raises(ContractError, match="row group 0: 9,000 rows, expected at most 8,999"):
        read(delivery.table, delivery.write(tmp_path))


@pytest.mark.parametrize("copies", [line(37, 3)])
def test_an_object_that_is_listed_again_is_read_once(monkeypatch, copies):
    files = {SUCCESS: b"", "0.csv": HEAD + b"P,mug\n", "1.csv": HEAD + b"Q,mug\n"}

    class Bucket:
        def list(self, prefix):
            for name in (*files, *["0.csv"] * (copies - 1)):
                yield StoredObject(f"day/{name}", 1)

        def get_file(self, key, path):
            path.write_bytes(files[key.removeprefix("day/")])

    monkeypatch.setattr("indexer.contracts.files.open_store", lambda url: Bucket())
    rows, counts = read(Delivery(files={}).table, CatalogueConfig(path="s3://bucket/day", success_file=True))
    assert [row["product_id"] for row in rows] == ["P", "Q"]
    assert (counts.rows_in, counts.rejected, counts.fixes) == (2, 0, {"files_listed_twice": copies - 1})
