"""A small size of the machine, and that its model notices rules that are broken."""

from collections.abc import Callable

import pytest

from indexer.build import publish, published
from indexer.releases import changes, garbage, history
from tests.proof.broken_rules import commit_anywhere
from tests.proof.machine import SEEN, ReleaseMachine, run_machine


def test_real_builds_that_are_interleaved_and_killed_do_what_the_model_says():
    SEEN.clear()
    run_machine(20, 15)
    for outcome in ("build published", "build killed", "corrupted", "consumed", "gc int"):
        assert SEEN[outcome] > 0, SEEN


def build(machine: ReleaseMachine, night: str = "new", count: int | None = None) -> None:
    machine.start_build(night, 0, "all", count)


def collect_shared(machine: ReleaseMachine) -> None:
    build(machine)
    machine.start_collection(1, False, None)
    machine.nothing_that_may_go_live_is_gone()


def collect_pinned(machine: ReleaseMachine) -> None:
    machine.start_change("pin", 0, None)
    build(machine)
    machine.start_collection(1, False, None)


def resume_damaged(machine: ReleaseMachine) -> None:
    pattern = "v/*/done/products-00000.json"
    earlier = set(machine.release.glob(pattern))
    machine.start_build("new", 0, "vectors", 0)
    while not (sealed := set(machine.release.glob(pattern)) - earlier):
        machine.go_on(0, 0)
    machine.crash(0, 0)
    corrupt(machine, sealed.pop().parts[-3], ".texts")
    machine.start_build("same", 0, "vectors", None)


def roll_back_to_damaged(machine: ReleaseMachine) -> None:
    build(machine)
    corrupt(machine, next(iter(machine.model.published)), ".html")
    machine.start_change("rollback", 0, None)


def corrupt(machine: ReleaseMachine, run_id: str, ending: str) -> None:
    runs = sorted(path.name for path in machine.release.glob("v/*"))
    keys = [item.key for item in machine.list_objects(run_id)]
    machine.corrupt(runs.index(run_id), next(at for at, key in enumerate(keys) if key.endswith(ending)), False)


def rerun_older(machine: ReleaseMachine) -> None:
    build(machine)
    machine.start_build("older", 1, "all", None)


def build_over_another(machine: ReleaseMachine) -> None:
    build(machine, count=5)
    machine.start_build("same", 1, "all", None)
    machine.go_on(0, None)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "steps", "noticed"),
    [
        (publish, "examine_objects", lambda *_: [], resume_damaged, "went live with damaged objects"),
        (changes, "examine_objects", lambda *_: [], roll_back_to_damaged, "went live with damaged objects"),
        (garbage, "_name_objects", lambda *_: set(), collect_shared, "which may go live, is gone"),
        (history.History, "pinned", property(lambda self: frozenset()), collect_pinned, "a pinned run was retired"),
        (published, "_read_date", lambda *_: None, rerun_older, "an older night replaced a newer one"),
        (publish, "commit_publication", commit_anywhere, build_over_another, "another release went live since"),
    ],
)
def test_a_broken_rule_is_noticed(
    owner: object,
    name: str,
    broken: object,
    steps: Callable[[ReleaseMachine], None],
    noticed: str,
    monkeypatch: pytest.MonkeyPatch,
):
    def run(*, fails: bool) -> None:
        machine = ReleaseMachine()
        try:
            machine.publish_first()
            if fails:
                with pytest.raises(AssertionError, match=noticed):
                    steps(machine)
            else:
                steps(machine)
        finally:
            machine.teardown()

    run(fails=False)
    monkeypatch.setattr(owner, name, broken)
    run(fails=True)
