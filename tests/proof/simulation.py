"""The project's own publish, rollback, pin, gc and reading code on a store that stalls, loses and kills by seed.

Every actor is a greenlet; each of its calls to the store hands control to the scheduler, which decides whose call is
answered next, and whether the request or the answer is lost, the actor cut off for a while, or killed. A request that
was lost, or whose sender was killed, may still arrive much later. Clocks of processes differ. What must never happen
is looked for at each change of the store, from the truth that only the simulator knows (`world`).

    python -m tests.proof.simulation --full
    python -m tests.proof.simulation --schedules 4000 --break retire
    python -m tests.proof.simulation --first 20000 --schedules 980000 --processes 1 --part 5000
"""

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import greenlet

from indexer.build import publish as publishing
from indexer.errors import (
    ConfigError,
    IndexerError,
    IntegrityError,
    OutcomeUnknownError,
    PublishConflictError,
    StoreError,
)
from indexer.releases import changes
from tests.proof.actors import Actors, name_night
from tests.proof.broken_rules import BROKEN
from tests.proof.lines import print_line
from tests.proof.simulated_store import Killed, LostError, Request
from tests.proof.stand_ins import simulated
from tests.proof.world import World

STEPS = 900
ACTORS = 4
SKEWS = (0, 10, 100_000)
"""Seconds by which the clocks of processes differ from the store's at most."""


@dataclass
class Actor:
    """One process."""

    body: Any
    waiting: Request | None = None
    asleep_until: int = 0
    cut_off_until: int = 0
    """Step up to which none of its requests is answered."""


class Simulation:
    """One schedule."""

    def __init__(self, seed: int, folder: Path, *, same_keys: bool = False) -> None:
        self.random = random.Random(seed)
        self.world = World()
        self.actors = Actors(self.world, self.random, folder, same_keys=same_keys)
        self.outcomes: Counter[str] = Counter()
        self.nights = 0
        self.late: list[tuple[int, Request]] = []
        self.lost = self.random.choice([0.0, 0.05, 0.2])
        self.killed = self.random.choice([0.0, 0.01, 0.03])
        self.skew = self.random.choice(SKEWS)

    def run(self) -> None:
        """Let actors start, call and die until the steps are spent."""
        for module in (publishing, changes):
            setattr(module, "now_text", self._tell_time)  # noqa: B010
        running: list[Actor] = []
        for step in range(STEPS):
            self._deliver(step)
            if len(running) < ACTORS and step < STEPS * 0.8:
                running.append(self._start())
            ready = [actor for actor in running if actor.asleep_until <= step]
            if not ready:
                continue
            actor = self.random.choice(ready)
            if self.random.random() < 0.02:
                actor.asleep_until = step + self.random.randrange(20, 160)
            if self.random.random() < self.lost / 10:
                actor.cut_off_until = step + self.random.randrange(20, 160)
            if self.random.random() < self.killed:
                self._kill(actor, step)
            else:
                self._step(actor, step)
            if actor.body.dead:
                running.remove(actor)
        self._deliver(STEPS * 2)
        for actor in running:
            actor.body.throw(Killed())
            self.outcomes["unfinished"] += 1

    def _deliver(self, step: int) -> None:
        """Apply the late requests that arrive now; nobody waits for their answers."""
        if not self.late:
            return
        for due in [late for late in self.late if late[0] <= step]:
            self.late.remove(due)
            self.outcomes["late"] += 1
            try:
                due[1].apply()
            except IndexerError:
                self.outcomes["late in vain"] += 1

    def _lose(self, request: Request | None, step: int) -> None:
        """Drop a request, or let it arrive later where it would change something."""
        if request is not None and request.writes and self.random.random() < 0.5:
            self.late.append((step + self.random.randrange(1, 200), request))

    def _kill(self, actor: Actor, step: int) -> None:
        """End a process in the middle of a call, or before its first."""
        self._lose(actor.waiting, step)
        self.outcomes["killed"] += bool(actor.body)
        actor.body.throw(Killed())

    def _step(self, actor: Actor, step: int) -> None:
        self.world.clock += 1
        request = actor.waiting
        if request is None:
            actor.waiting = actor.body.switch()
            return
        fate = self.random.random()
        if fate < self.lost / 2 or step < actor.cut_off_until:
            self._lose(request, step)
            actor.waiting = actor.body.throw(LostError("request lost"))
            return
        try:
            answer = request.apply()
        except IndexerError as error:
            actor.waiting = actor.body.throw(LostError("answer lost") if fate < self.lost else error)
            return
        if fate < self.lost:
            actor.waiting = actor.body.throw(LostError("answer lost"))
        else:
            actor.waiting = actor.body.switch(answer)

    def _start(self) -> Actor:
        draw, actors = self.random.random(), self.actors
        if draw < 0.45 or not self.world.entries:
            return self._actor(self._choose_night())
        kinds = [(0.7, actors.collect), (0.76, actors.roll_back), (0.84, actors.pin), (1.0, actors.consume)]
        return self._actor(next(body for limit, body in kinds if draw < limit))

    def _choose_night(self) -> Callable[[], str]:
        """A new night; the same once more, resumed or doubled, with another option or compacted; or an older one."""
        draw = self.random.random()
        if draw < 0.4 or not self.nights:
            self.nights += 1
        night = max(1, self.nights - 1) if draw > 0.95 else self.nights
        variant = self.random.choice("ab")
        live = self.world.live
        if 0.6 < draw < 0.8 and live is not None:
            # Two runs of a night that replace each other are rare by themselves.
            variant = next(one for one in "ab" if not live.run_id.startswith(name_night(night, one)[0]))
        return partial(self.actors.publish, night, variant, "vectors" if 0.88 < draw < 0.95 else "all")

    def _actor(self, body: Callable[[], str]) -> Actor:
        def live() -> None:
            try:
                self.outcomes[body()] += 1
            except PublishConflictError:
                self.outcomes["conflict"] += 1
            except OutcomeUnknownError:
                self.outcomes["unknown"] += 1
            except (StoreError, ConfigError, IntegrityError):
                self.outcomes["failed"] += 1

        process = greenlet.greenlet(live)
        process.skew = timedelta(seconds=self.random.randint(-self.skew, self.skew))
        return Actor(process)

    def _tell_time(self) -> str:
        return (self.world.now + greenlet.getcurrent().skew).isoformat()


def simulate(seeds: range, broken: str = "") -> tuple[Counter[str], Counter[str], Counter[str], int]:
    """Run schedules; return violations, outcomes, figures, and the first seed that violated, or -1."""
    violations: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    first = -1
    with simulated(broken), tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        for seed in seeds:
            simulation = Simulation(seed, Path(folder), same_keys=broken in ("keys", "hashes"))
            simulation.run()
            world = simulation.world
            violations += world.violations
            outcomes += simulation.outcomes
            figures.update(schedules=1, commits=len(world.entries), calls=world.clock)
            figures["violating"] += bool(world.violations)
            if world.violations and first < 0:
                first = seed
    return violations, outcomes, figures, first


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None


def _simulate(part: tuple[range, str]) -> tuple[Counter[str], Counter[str], Counter[str], int]:
    return simulate(*part)


def main() -> None:
    """Parse the command line, print what happened, and end with 1 where anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="20,000 schedules and one line")
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--part", type=int, default=1_000, help="schedules after which the state is told")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--break", dest="broken", choices=sorted(BROKEN), default="")
    options = parser.parse_args()
    started, stop = time.monotonic(), options.first + options.schedules
    parts = [range(start, min(start + options.part, stop)) for start in range(options.first, stop, options.part)]
    violations: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    firsts: list[int] = []
    # Schedules leave hardly a cycle behind: looking for them as often as Python does costs a seventh of the time.
    with Pool(options.processes, gc.set_threshold, (50_000,)) as pool:
        for part, found in zip(parts, pool.imap(_simulate, [(part, options.broken) for part in parts]), strict=True):
            for total, more in zip((violations, outcomes, figures), found, strict=False):
                total.update(more)
            firsts += [found[3]] if found[3] >= 0 else []
            if not options.full:
                print(f"up to {part.stop}: {figures['commits']} commits, violations {dict(violations)}", flush=True)
    seconds = time.monotonic() - started
    if options.full:
        found = f"{figures['commits']} commits, {figures['calls']} calls, {violations.total()} violations"
        print_line("simulation", f"{figures['schedules']} schedules", found, seconds)
    else:
        print(f"{dict(figures)} in {seconds:.0f} s\noutcomes {dict(outcomes)}")
    if violations:
        print(f"violations {dict(violations)}, first with seed {min(firsts)}")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
