"""Bad files and bad rows (tests/bad_inputs), through Spark: the same refusals, the same rejects as without."""

import pytest

from indexer.contracts import preflight
from indexer.errors import ContractError
from spark.inputs import locate_input
from spark.tables import read_input
from tests.bad_inputs.lines import line
from tests.bad_inputs.tables import JUDGED, REFUSED, ROWS, Delivery, parquet

pytestmark = pytest.mark.jvm


@pytest.fixture
def read_delivery(session, tmp_path):
    def go(delivery):
        source = delivery.write(tmp_path)
        location = locate_input(session, source, section="catalogue", staging=tmp_path / "staging")
        return read_input(session, delivery.table, location, source)

    return go


@pytest.mark.parametrize("delivery", REFUSED)
def test_a_file_that_cannot_be_used_is_refused(read_delivery, delivery):
    with pytest.raises(ContractError, match=delivery.refused) as caught:
        read_delivery(delivery)
    assert len(str(caught.value)) < 900
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("delivery", JUDGED)
def test_a_bad_row_is_rejected_or_mended_and_the_others_stay(read_delivery, delivery):
    found = read_delivery(delivery)
    kept = sorted(row.product_id for row in found.rows.select("product_id").collect())
    assert tuple(kept) == delivery.kept
    assert {reject["reason"]: reject["count"] for reject in found.rejects} == delivery.reasons
    counts = dict(found.counts)
    rows = {name: counts.pop(name) for name in ("rows_in", "valid", "rejected")}
    assert rows["rows_in"] == rows["valid"] + rows["rejected"] == len(kept) + sum(delivery.reasons.values())
    assert counts == delivery.counted


@pytest.mark.parametrize("limit", [line(34, 8_999)])
def test_a_row_group_without_measure_is_refused(read_delivery, monkeypatch, limit):
    monkeypatch.setattr(preflight, "MAX_GROUP_ROWS", limit)
    with pytest.raises(ContractError, match="row group 0: 9,000 rows, expected at most 8,999"):
        read_delivery(Delivery(files={"c.parquet": parquet(ROWS)}))
