"""Builds, people, collectors and consumers of one real store, interleaved and killed at any call, against a model.

Every process is the real code on a real folder, in a greenlet that stops at each of its calls to the store. Hypothesis
chooses who goes on and for how long, who is killed, and which byte is changed; `model` says what may have come of it.

    python -m tests.proof.machine
    python -m tests.proof.machine --full
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import greenlet
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from indexer.errors import ConfigError, IntegrityError, PublishConflictError, StoreError
from indexer.log import read_manifest, require_live
from indexer.object_cache import ObjectCache
from indexer.reader import Index, open_index
from indexer.releases import changes
from indexer.releases.garbage import KeepingRule, collect_garbage, plan_garbage
from indexer.releases.verify import verify_objects
from indexer.store import LocalStore
from tests.conftest import list_products
from tests.proof.forks import open_folder
from tests.proof.lines import hide_plans, print_line
from tests.proof.model import Model, Promised, Release, find_objects
from tests.proof.shop import Shop
from tests.proof.simulated_store import Killed
from tests.proof.stand_ins import serial
from tests.proof.store_calls import watch_calls

PROCESSES = 4
LONG = timedelta(days=1)
SEEN: Counter[str] = Counter()
"""What became of the processes of all examples."""


@dataclass
class Process:
    """One process, halted at a call to the store or not begun."""

    name: str
    body: greenlet.greenlet
    since: int
    disturbed: bool
    """Whether a collection without any grace period is under way beside it, or was."""
    manifests: list[str] = field(default_factory=list)
    """Keys of those it stored."""


def halt(store: LocalStore, when: str, verb: str, key: str) -> None:
    """Give control back at a call of a process; what consumers and the machine itself call goes through."""
    current = greenlet.getcurrent()
    if current.parent is not None and store.url.endswith("/release"):
        current.parent.switch((when, verb, key))


def make_rows(night: int, variant: int) -> list[Any]:
    """Return the catalogue of a night; variants of it differ in one product."""
    rows = [
        (name, f"{title} night {night}" if at % 7 == night % 7 else title, brand)
        for at, (name, title, brand) in enumerate(list_products(24))
    ]
    return [*rows, (f"V{variant}", f"green school mug {variant}", "acme")]


calls = st.one_of(st.none(), st.integers(0, 250))
"""How many calls a process makes before another goes on; none for all of them."""


class ReleaseMachine(RuleBasedStateMachine):
    """One store and those who use it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = self.stack.enter_context(open_folder())
        self.stack.enter_context(serial())
        self.stack.enter_context(watch_calls(halt))
        self.release = self.folder / "release"
        self.model = Model(self.release)
        self.processes: list[Process] = []
        self.index: Index | None = None
        self.moment = self.shops = self.night = 0

    def teardown(self) -> None:
        for process in self.processes:
            _kill(process)
        self.stack.close()

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.release)

    @initialize()
    def publish_first(self) -> None:
        self.start_build("new", 0, "all", None)

    @precondition(lambda self: len(self.processes) < PROCESSES)
    @rule(
        night=st.sampled_from(["new", "same", "same", "same", "older"]),
        variant=st.integers(0, 2),
        reuse=st.sampled_from(["all", "all", "all", "vectors", "none"]),
        count=calls,
    )
    def start_build(self, night: str, variant: int, reuse: str, count: int | None) -> None:
        """Begin a build, which may be one that was killed, is under way or was published."""
        self.night += night == "new"
        chosen = max(1, self.night - 1) if night == "older" else max(1, self.night)
        self.shops += 1
        shop = Shop(self.folder / f"shop-{self.shops}")
        shop.write(make_rows(chosen, variant), shards=2, index="max_deltas = 2")
        self.release.mkdir(exist_ok=True)
        (shop.folder / "release").symlink_to(self.release)
        self._start("build", lambda: shop.build(chosen, reuse), count)

    @precondition(lambda self: len(self.processes) < PROCESSES)
    @rule(night=st.sampled_from(["new", "same"]), variant=st.integers(0, 2), count=st.integers(0, 250))
    def start_and_crash(self, night: str, variant: int, count: int) -> None:
        """Begin a build, and kill it if it has not ended."""
        self.start_build(night, variant, "all", count)
        if self.processes and self.processes[-1].since == self.moment:
            self.crash(len(self.processes) - 1, 0)

    @precondition(lambda self: len(self.processes) < PROCESSES and self.model.published)
    @rule(kind=st.sampled_from(["rollback", "pin", "unpin"]), at=st.integers(0, 5), count=calls)
    def start_change(self, kind: str, at: int, count: int | None) -> None:
        runs = list(self.model.published)
        run_id = runs[at % len(runs)]
        change = {"rollback": changes.roll_back, "pin": changes.pin, "unpin": changes.unpin}[kind]
        self._start(kind, lambda: change(self.store, run_id), count)

    @precondition(lambda self: len(self.processes) < PROCESSES and self.model.published)
    @rule(keep=st.integers(1, 3), long=st.booleans(), count=calls)
    def start_collection(self, keep: int, long: bool, count: int | None) -> None:
        """Begin a collection; one without a grace period takes from others what they are at."""
        keeping = KeepingRule(releases=keep, grace=LONG if long else timedelta(0))
        if not long:
            for process in self.processes:
                process.disturbed = True
        name = "gc" if long else "gc now"
        self._start(name, lambda: collect_garbage(self.store, plan_garbage(self.store, keeping), most=True), count)

    @precondition(lambda self: self.processes)
    @rule(at=st.integers(0, PROCESSES - 1), count=calls)
    def go_on(self, at: int, count: int | None) -> None:
        self._run(self.processes[at % len(self.processes)], count)

    @precondition(lambda self: self.processes)
    @rule(at=st.integers(0, PROCESSES - 1), count=st.integers(0, 60))
    def crash(self, at: int, count: int) -> None:
        """Let a process make some more calls and kill it at the next."""
        process = self.processes[at % len(self.processes)]
        self._run(process, count)
        if process in self.processes:
            self.processes.remove(process)
            _kill(process)
            SEEN[f"{process.name} killed"] += 1

    @precondition(lambda self: self.release.exists())
    @rule(run=st.integers(0, 5), at=st.integers(0, 30), cut=st.booleans())
    def corrupt(self, run: int, at: int, cut: bool) -> None:
        """Change a byte of an object of a release, or of what a build has sealed, or take its last one away."""
        runs = sorted(path.name for path in self.release.glob("v/*"))
        objects = self.list_objects(runs[run % len(runs)]) if runs else []
        path = self.release / objects[at % len(objects)].key if objects else self.release
        if not path.is_file():
            return
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if cut else data)
        self.moment += 1
        self.model.corrupted[objects[at % len(objects)].key] = self.moment
        SEEN["corrupted"] += 1

    def list_objects(self, run_id: str) -> list[Promised]:
        """Return the objects of a run's newest publication, or those that it has sealed so far."""
        if release := self.model.published.get(run_id):
            return [release.manifest, *release.objects]
        markers = sorted(self.release.glob(f"v/{run_id}/done/[a-z]*.json"))
        return [item for path in markers for item in find_objects(json.loads(path.read_bytes()))]

    @precondition(lambda self: self.model.live)
    @rule()
    def consume(self) -> None:
        """Open the index or follow it: a whole release is served, a damaged one is refused and the old one stays."""
        live = self.model.live
        assert live is not None
        damage = self._find_consumed_damage(live)
        before = self.index.release.sequence if self.index else 0
        try:
            if self.index is None:
                self.index = open_index(str(self.release))
            else:
                self.index.refresh()
        except IntegrityError:
            SEEN["consumer refused"] += 1
            assert damage, "a whole release was refused"
            assert self.index is None or self.index.release.sequence == before
        else:
            # What is served was read before its files were changed.
            assert not damage or before == self.model.live_sequence, damage
            assert self.index.release.sequence == self.model.live_sequence
            SEEN["consumed"] += 1
        assert self.index is None or self.index.search("green school mug", k=3)

    @precondition(lambda self: self.model.live)
    @rule()
    def verify(self) -> None:
        """Read the live release as `indexer release verify` does: it names what is damaged, and nothing else."""
        live = self.model.live
        assert live is not None
        expected = set(self.model.find_damage(live))
        if live.manifest.key in expected:
            with suppress(IntegrityError):
                read_manifest(self.store, require_live(self.store))
                raise AssertionError("a changed manifest was read")
            return
        objects = read_manifest(self.store, require_live(self.store)).objects
        found = verify_objects(self.store, objects, ObjectCache(self.store, self.store.root))
        named = {sentence.removeprefix(f"{self.store.url}/").partition(":")[0] for sentence in found if sentence}
        assert named == expected

    @invariant()
    def nothing_that_may_go_live_is_gone(self) -> None:
        self.model.check_objects()

    def _find_consumed_damage(self, release: Release) -> list[str]:
        unread = (".digests", ".html")
        return [key for key in self.model.find_damage(release) if not key.endswith(unread)]

    def _start(self, name: str, body: Callable[[], Any], count: int | None) -> None:
        outcome: list[Any] = []

        def live() -> list[Any]:
            try:
                outcome.append(body())
            except Exception as error:
                outcome.append(error)
            return outcome

        self.moment += 1
        disturbed = any(process.name == "gc now" for process in self.processes)
        process = Process(name, greenlet.greenlet(live), self.moment, disturbed)
        self.processes.append(process)
        self._run(process, count)

    def _run(self, process: Process, count: int | None) -> None:
        """Let a process make so many calls, or all; look at the log after each that may have changed it."""
        made = 0
        while count is None or made <= count:
            halted = process.body.switch()
            if process.body.dead:
                self.processes.remove(process)
                self.model.read_log(process.since)
                self._judge(process, halted[0])
                return
            when, verb, key = halted
            if (when, verb) == ("after", "put_new"):
                process.manifests += [key] if "/manifest." in key else []
                self.model.read_log(process.since)
            made += 1

    def _judge(self, process: Process, outcome: Any) -> None:
        """Compare what a process says with what has become of the log."""
        what = outcome.status if hasattr(outcome, "status") else type(outcome).__name__
        SEEN[f"{process.name} {what}"] += 1
        if isinstance(outcome, PublishConflictError):
            assert not any(self.model.names(key) for key in process.manifests), "told of a conflict, and published"
        elif isinstance(outcome, IntegrityError):
            assert self.model.corrupted or process.disturbed, outcome
        elif isinstance(outcome, StoreError):
            assert process.disturbed, outcome
        elif isinstance(outcome, ConfigError):
            assert process.name != "build", outcome
        elif isinstance(outcome, Exception):
            raise outcome
        elif process.name == "build" and outcome.status not in ("retired", "published before", "unchanged"):
            sequence, run_id = outcome.sequence, outcome.run_id
            assert f'"run_id": "{run_id}"'.encode() in self.model.texts[sequence - 1], "told of what is not in the log"


def _kill(process: Process) -> None:
    while not process.body.dead:
        process.body.throw(Killed())


def main() -> None:
    """Parse the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="300 examples of 50 steps")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    hide_plans()
    examples, steps = (300, 50) if options.full else (options.examples, options.steps)
    started = time.monotonic()
    run_machine(examples, steps)
    killed = sum(count for name, count in SEEN.items() if name.endswith("killed"))
    found = f"{SEEN['build published']} published, {killed} killed, {SEEN['corrupted']} objects changed, 0 violations"
    print_line("state machine", f"{examples} examples of {steps} steps", found, time.monotonic() - started)
    if not options.full:
        print(dict(sorted(SEEN.items())))


def run_machine(examples: int, steps: int, *, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """Run the machine, with the same examples each time; raises what a step raised, with the steps that led to it."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(ReleaseMachine, settings=chosen)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
