"""The protocol as it is holds on every schedule; each rule that is broken is noticed."""

import pytest

from tests.proof.simulation import BROKEN, simulate


def test_no_schedule_violates_what_is_promised():
    violations, outcomes, figures, first = simulate(range(60))
    assert not violations, f"first with seed {first}"
    assert figures["commits"] > 200
    for outcome in ("published", "conflict", "collected", "rolled back", "pinned", "unpinned", "read", "killed"):
        assert outcomes[outcome] > 0, outcome


DELETED = "an object of a release that may go live was deleted"
NOTICED = {
    "retire": DELETED,
    "shared": DELETED,
    "overwrite": "a log number was used twice",
    "read-back": "a publisher was told of a conflict, but its release is in the log",
    "log": "a log entry was deleted",
    "base": "an object of the live release is missing or changed",
    "pins": "a live or pinned release was retired",
    "retired": "a retired release went live",
    "keys": "an object of the live release is missing or changed",
    "hashes": "a consumer read other bytes than were published",
}


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_broken_rule_is_noticed_by_what_it_leads_to(broken: str):
    violations, *_ = simulate(range(60), broken)
    assert violations[NOTICED[broken]] > 0, violations
