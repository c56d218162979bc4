"""A share of the cases of `tests.proof.faults`, and that what it looks for would be seen."""

from collections.abc import Iterator
from contextlib import ExitStack
from unittest import mock

import pytest

from indexer import log
from indexer.build import release
from indexer.store import s3 as stores
from tests.proof.faults import ALWAYS, CALLS, TIMES, Case, Shop, list_cases, open_shop, run_case
from tests.proof.s3_faults import FAULTS


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with open_shop() as opened:
        yield opened


def test_the_share_has_every_call_fault_and_number_of_times():
    cases = list_cases(full=False)
    assert {case.call for case in cases} == set(CALLS)
    assert {case.fault for case in cases} == set(FAULTS)
    assert {case.times for case in cases} == set(TIMES)
    assert len(list_cases(full=True)) == len(CALLS) * len(FAULTS) * len(TIMES) == 378


@pytest.mark.parametrize("case", list_cases(full=False), ids=lambda case: case.name)
def test_a_fault_ends_well(shop: Shop, case: Case):
    assert run_case(shop, case) == ""


def test_a_commit_that_is_not_read_back_is_noticed(shop: Shop):
    case = Case("commit", "reset after", ALWAYS)
    with mock.patch.object(log, "_read_back", return_value=None):
        assert "ended with 75, expected 0" in run_case(shop, case)


def test_a_store_without_patience_is_noticed(shop: Shop):
    with mock.patch.object(stores, "READ_ATTEMPTS", 1):
        assert "ended with 75, expected 0" in run_case(shop, Case("get", "short", 1))


def test_a_store_with_too_much_patience_is_noticed(shop: Shop):
    with mock.patch.object(stores, "READ_ATTEMPTS", 9):
        assert run_case(shop, Case("head", "silence", ALWAYS)).startswith("took ")


def test_a_log_that_is_written_over_is_noticed(shop: Shop):
    def overwrite(self: stores.S3Store, key: str, data: bytes) -> None:
        key = key.replace("0004.json", "0003.json")
        self._once.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(stores.S3Store, "put_new", overwrite))
        for module in (log, release):
            stack.enter_context(mock.patch.object(module, "prove_creates"))
        case = Case("head", "slow down", 1)
        assert run_case(shop, case) == "the store is torn: ValueError('a log entry lies under another number')"
