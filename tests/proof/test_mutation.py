"""What is said of a run of changed code, by results written by hand."""

import configparser
from collections import Counter
from pathlib import Path

import pytest

from tests.proof.mutation import PARTS, count_changes, judge

RESULTS = """
    indexer.log.x_read_head__mutmut_1: killed
    indexer.log.x_read_head__mutmut_2: survived
    indexer.build.publish.xǁRunFolderǁseal__mutmut_7: timeout
    indexer.releases.garbage.x_plan_garbage__mutmut_3: not checked
    indexer.releases.history.x_read_history__mutmut_1: no tests
""".splitlines()


def test_changes_are_counted_by_part() -> None:
    assert {part: dict(statuses) for part, statuses in count_changes(RESULTS).items()} == {
        "commit": {"killed": 1, "survived": 1, "timeout": 1},
        "gc": {"not checked": 1},
        "manifest": {},
        "gates": {},
        "operators": {"no tests": 1},
    }


def test_a_change_of_other_code_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"indexer\.store is changed"):
        count_changes(["    indexer.store.x_open_store__mutmut_1: survived"])


@pytest.mark.parametrize(
    ("statuses", "says", "enough"),
    [
        ({"killed": 8, "timeout": 1, "survived": 1}, "10 changes | 9 noticed, 90.0%, 1 survived", True),
        ({"killed": 8, "survived": 1, "no tests": 1}, "10 changes | 8 noticed, 80.0%, 1 no tests, 1 survived", False),
        ({"killed": 99, "not checked": 1}, "100 changes | 99 noticed, 99.0%, 1 not checked", False),
        ({"killed": 99, "skipped": 1}, "100 changes | 99 noticed, 99.0%, 1 skipped", False),
        ({}, "0 changes | 0 noticed, 0.0%", False),
    ],
)
def test_nine_tenths_of_all_changes_are_to_be_noticed(statuses: dict[str, int], says: str, enough: bool) -> None:
    assert judge("gc", Counter(statuses)) == (f"mutation gc | {says}", enough)


def test_all_code_that_is_changed_stands_in_a_part() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    files = setup["mutmut"]["only_mutate"].split()
    modules = [file.removeprefix("indexer/").removesuffix(".py").replace("/", ".") for file in files]
    assert sorted(modules) == sorted(module for modules in PARTS.values() for module in modules)
