"""The protocol as it is holds on every schedule; each rule that is broken is noticed."""

import pytest

from tests.proof.simulation import BROKEN, simulate


def test_no_schedule_violates_what_is_promised():
    violations, outcomes, figures, first = simulate(range(60))
    assert not violations, f"first with seed {first}"
    assert figures["commits"] > 200
    for outcome in ("published", "conflict", "collected", "rolled back", "pinned", "unpinned", "read", "killed"):
        assert outcomes[outcome] > 0, outcome


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_broken_rule_is_noticed(broken: str):
    violations, *_ = simulate(range(30), broken)
    assert violations
