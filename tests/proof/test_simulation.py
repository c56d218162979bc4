"""The protocol as it is holds on every schedule; each rule that is broken is noticed."""

import pytest

from tests.proof.broken_rules import BROKEN
from tests.proof.simulation import simulate

OUTCOMES = (
    "published",
    "published again",
    "already published",
    "conflict",
    "unknown",
    "collected",
    "rolled back",
    "pinned",
    "unpinned",
    "read",
    "killed",
    "late",
)


def test_no_schedule_violates_what_is_promised():
    violations, outcomes, figures, first = simulate(range(200))
    assert not violations, f"first with seed {first}"
    assert figures["commits"] > 1_000
    assert [outcome for outcome in OUTCOMES if not outcomes[outcome]] == []


DELETED = "an object of a run that may go live was deleted"
NOTICED = {
    "retire": DELETED,
    "shared": "an object of a release that may go live was deleted",
    "overwrite": "a log number was used twice",
    "read-back": "a publisher was told of a conflict, but its release is in the log",
    "unknown": "a publisher was told of a conflict, but its release went live later",
    "log": "a log entry was deleted",
    "base": "an object of the live release is missing or changed",
    "moved-on": "a release went live on another than it was planned on",
    "pins": "a live or pinned release was retired",
    "retired": "a retired release went live",
    "rollback": "a rerun undid an operator's rollback",
    "older": "an older night replaced a newer one",
    "building": "a run that may still be built was retired within the grace period",
    "recent": "a release that was live within the grace period was retired",
    "leak": "a collection left what nobody needed when it began",
    "keys": "an object of the live release is missing or changed",
    "hashes": "a consumer read other bytes than were published",
}


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_broken_rule_is_noticed_by_what_it_leads_to(broken: str):
    seeds = (range(start, start + 50) for start in range(0, 1_000, 50))
    assert any(simulate(part, broken)[0][NOTICED[broken]] for part in seeds)
