"""The gates of a job: needed rows, and the loss against the newest earlier night."""

import pytest

from indexer.errors import GateError
from indexer.index_config import GatesConfig
from indexer.runs import StepCommit
from jobs.gates import judge_step


def counts(*, catalogue=1_000, purchases=1_000, nodes=50, **tables):
    inputs = {"CATALOGUE": {"rows_in": 9_999, "valid": catalogue}, "RAW_PURCHASES": {"rows_in": 0, "valid": purchases}}
    return {"inputs": inputs, "figures": {"nodes_with_products": nodes}, "tables": tables}


EARLIER = StepCommit(step="s", run_date="2026-11-19", attempt="a", fingerprint="f", counts=counts())


@pytest.mark.parametrize(
    ("tonight", "message"),
    [
        (counts(), None),
        (
            counts(catalogue=600),
            r"valid rows of CATALOGUE fell from 1,000 on 2026-11-19 to 600, by more than 30%",
        ),
        (counts(catalogue=700), None),
        (counts(catalogue=5_000), None),
        (counts(nodes=1), "nodes with products fell from 50 on 2026-11-19 to 1"),
        (counts(purchases=1), None),
        (counts(QUERY_PAIRS=0), "QUERY_PAIRS has 0 rows.*gates.tables_with_rows"),
        (counts(QUERY_NEGATIVES=0), None),
        ({"inputs": {}, "figures": {}, "tables": {}}, None),
    ],
    ids=[
        "the same",
        "catalogue 40 % smaller",
        "catalogue 30 % smaller",
        "larger",
        "all in one category",
        "few purchases",
        "empty result",
        "empty where allowed",
        "nothing to compare",
    ],
)
def test_a_night_against_the_one_before(tonight, message):
    if message is None:
        judge_step("s", tonight, EARLIER, GatesConfig())
        return
    with pytest.raises(GateError, match=message) as caught:
        judge_step("s", tonight, EARLIER, GatesConfig())
    assert caught.value.exit_code == 4
    judge_step("s", tonight, EARLIER, GatesConfig(max_shrink=1, tables_with_rows=()))


def test_the_first_night_has_nothing_to_shrink_from():
    judge_step("s", counts(catalogue=1, nodes=1), None, GatesConfig())
