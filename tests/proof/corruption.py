"""Every kind of object of a release, damaged in every way: refused by its hash, and without hashes survived in a child.

    python -m tests.proof.corruption --full

First each damaged object is given to whoever reads it, with every parser behind the hash watched. Then the hashes are
left out: damaged files are opened and searched in child processes, as `indexer.guard_child` does, and it is counted
what they refuse, what kills them, and what answers differently without anybody noticing. Some are given to the guard
itself, whose process must go on with nothing but an error of ours, and with no more memory.
"""

import argparse
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from indexer.build.publish import RunFolder, encoder_seal, shard_seal
from indexer.build.shard import fetch_probe
from indexer.encoder import ENCODER_FILES
from indexer.errors import IntegrityError, StoreError
from indexer.guard import ChildLimits, try_release
from indexer.log import require_live
from indexer.manifest import parse_manifest
from indexer.object_cache import ObjectCache
from indexer.reader import open_index
from indexer.store import LocalStore
from tests.proof.damaged_release import DAMAGES, SEED, DamagedFiles, Release, Sample, damage_bytes, make_release
from tests.proof.lines import hide_plans
from tests.proof.soak import measure_process

FULL = {"flip": 10_000, **dict.fromkeys(DAMAGES[1:], 1_000)}
FULL_CHILDREN, FULL_GUARDED = 20_000, 300
MOST_GROWTH = 64 << 20
"""Bytes by which the guard's own process may grow."""
ANSWER_SECONDS = 20
"""A child that is silent for so long is given up, and its file counts as one that it did not survive."""
OPENED = ("index", "ids", "texts", "dead", "canaries", *ENCODER_FILES)
"""Kinds that a consumer opens."""
PARSERS = (
    "indexer.reader.try_release",
    "indexer.loaded_release.load_encoder",
    "indexer.loaded_release.open_shard",
    "indexer.build.shard.read_probe",
)
"""What must not be reached by an object that was changed."""
ABOVE = ("log entry", "manifest")
"""What stands before the manifest's parser. No hash stands above an entry or a marker: an entry is read in strict JSON
and counts for nothing unless it is as it was signed; a marker has a hash of its own."""


def read_damaged(release: Release, sample: Sample, markers: Mapping[str, bytes], served: Path) -> bool:
    """Give an object to whoever reads it; return whether it was taken for whole.

    `served` is a cache folder from which the whole release was served: an entry that counts no more is missed by that.
    """
    store = LocalStore(release.root)
    try:
        if sample.kind == "seal":
            return read_marker(store, sample.key, markers) is not None
        if sample.kind == "probe":
            key = next(key for key, data in markers.items() if sample.key in data.decode())
            sealed = read_marker(store, key, markers)
            # Of another size: the marker is not trusted, and the shard is built anew.
            if sealed is not None:
                fetch_probe(store, sealed, release.root.parent)
            return sealed is not None
        if sample.kind == "digests":
            entry = next(entry for entry in release.manifest.objects if entry.key == sample.key)
            ObjectCache(store, release.root).fetch(entry)
            return True
        with (
            mock.patch("indexer.reader.open_public_key", return_value=release.key),
            tempfile.TemporaryDirectory() as cache,
        ):
            shutil.copytree(served / "served", Path(cache) / "served")
            open_index(str(release.root), guard="always", public_key="proof", cache=Path(cache))
        return True
    except IntegrityError:
        return False


def read_marker(store: LocalStore, key: str, markers: Mapping[str, bytes]) -> Any:
    """Read a marker as the next attempt of its run does; `markers` has what it said before it was damaged."""
    _, run_id, _, name = key.split("/")
    document = json.loads(markers[key])
    if name == "encoder.json":
        return RunFolder(store, run_id).find_sealed(encoder_seal(document["fingerprint"]))
    shard = document["shard"]
    number = int(name.removesuffix(".json").rpartition("-")[2])
    return RunFolder(store, run_id).find_sealed(shard_seal(shard["collection"], number, shard["fingerprint"]))


def run_hashed(release: Release, counts: Mapping[str, int], *, seed: int = SEED) -> tuple[Counter[str], list[str]]:
    """Damage objects of every kind in turn; return how many were tried by kind, and what was taken or parsed."""
    random_, tried, wrong = random.Random(seed), Counter[str](), list[str]()
    markers = {sample.key: sample.data for sample in release.samples if sample.kind == "seal"}
    by_kind: dict[str, list[Sample]] = {}
    for sample in release.samples:
        by_kind.setdefault(sample.kind, []).append(sample)
    kinds = sorted(by_kind)
    with ExitStack() as stack:
        served = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with mock.patch("indexer.reader.open_public_key", return_value=release.key):
            open_index(str(release.root), guard="never", public_key="proof", cache=served)
        spies = [stack.enter_context(mock.patch(name)) for name in PARSERS]
        # A whole manifest is parsed on the way to what was damaged; a damaged one, or one of a damaged entry, never.
        manifests = stack.enter_context(mock.patch("indexer.log.parse_manifest", wraps=parse_manifest))
        for damage, count in counts.items():
            for number in range(count):
                kind = kinds[number % len(kinds)]
                sample = random_.choice(by_kind[kind])
                (release.root / sample.key).write_bytes(damage_bytes(damage, sample, random_))
                taken = read_damaged(release, sample, markers, served)
                parsed = any(spy.called for spy in spies) or (kind in ABOVE and manifests.called)
                if taken or parsed:
                    wrong.append(f"{damage} of {sample.key}")
                release.restore(sample)
                tried[kind] += 1
                for spy in (*spies, manifests):
                    spy.reset_mock()
    return tried, wrong


def run_unhashed(release: Release, folder: Path, count: int) -> Counter[str]:
    """Try so many damages in children, another one after each that died; return what became of them."""
    write_order(release, folder)
    outcomes: Counter[str] = Counter()
    while (done := outcomes.total()) < count:
        for _, outcome in read_child(folder, done, count):
            outcomes[outcome] += 1
    return outcomes


def read_child(folder: Path, first: int, last: int) -> Iterator[tuple[int, str]]:
    """Yield each number with what became of it; the last is the one that the child did not survive."""
    command = [sys.executable, "-m", "tests.proof.corruption_child", str(folder), str(first), str(last)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "stderr").open("wb") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parents[2], env=environment
        )
    assert child.stdout is not None
    waiting, rest = first, b""
    while True:
        ready, _, _ = select.select([child.stdout], [], [], ANSWER_SECONDS)
        data = os.read(child.stdout.fileno(), 1 << 16) if ready else b""
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            # Libraries write to standard output as well.
            number, _, outcome = line.decode("utf-8", "replace").partition(" ")
            if number == str(waiting):
                yield waiting, outcome
                waiting += 1
    silent = child.poll() is None and not ready
    if silent:
        child.kill()
    code = child.wait()
    child.stdout.close()
    if waiting < last:
        tail = (folder / "stderr").read_text(errors="replace").strip().rpartition("\n")[2][:80]
        yield waiting, f"died: {'too long' if silent else f'code {code}'} {tail}".strip()


def run_guarded(release: Release, folder: Path, count: int) -> Counter[str]:
    """Give the guard so many damaged releases; raises what is no error of ours, and where this process grew."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {entry.key: release.root / entry.key for entry in release.manifest.downloads}
    damaged = DamagedFiles(release.manifest, files, [one for one in release.samples if one.kind in OPENED], folder)
    outcomes: Counter[str] = Counter()
    try_release(release.manifest, files, place="proof")
    before, _ = measure_process()
    for number in range(count):
        try:
            try_release(release.manifest, damaged.make(number)[1], place="proof")
            outcomes["passed"] += 1
        except IntegrityError:
            outcomes["refused"] += 1
        except StoreError:
            outcomes["not ended in time"] += 1
    grown = measure_process()[0] - before
    assert grown <= MOST_GROWTH, f"the guard's own process grew by {grown:,} bytes"
    return outcomes


def write_order(release: Release, folder: Path) -> None:
    """Write what a child has to know: the files, their limits, and what may be put in their place."""
    folder.mkdir(parents=True, exist_ok=True)
    live = require_live(LocalStore(release.root))
    shutil.copyfile(release.root / live.manifest.key, folder / "manifest.json")
    samples = []
    for number, sample in enumerate(item for item in release.samples if item.kind in OPENED):
        named: dict[str, list[str]] = {"others": [], "old": []}
        for group, parts in (("others", sample.others), ("old", sample.old)):
            for place, data in enumerate(parts):
                path = folder / f"{number}-{group}-{place}"
                path.write_bytes(data)
                named[group].append(str(path))
        samples.append({"kind": sample.kind, "key": sample.key, **named})
    document = {
        "limits": asdict(ChildLimits.of(release.manifest)),
        "files": {entry.key: str(release.root / entry.key) for entry in release.manifest.downloads},
        "samples": samples,
    }
    (folder / "order.json").write_text(json.dumps(document))


def main() -> None:
    """Parse the command line, print a line for each part, and end with 1 where anything was taken or taken down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="10,000 flips, 1,000 of each other damage, 20,000 in children"
    )
    parser.add_argument("--children", type=int, help="files that are opened in children")
    parser.add_argument("--only", choices=("hashed", "children"), help="one part alone")
    options = parser.parse_args()
    hide_plans()
    counts = FULL if options.full else dict.fromkeys(DAMAGES, 60)
    wrong: list[str] = []
    children = options.children if options.children is not None else FULL_CHILDREN if options.full else 400
    with tempfile.TemporaryDirectory() as folder:
        release = make_release(Path(folder))
        if options.only != "children":
            started = time.monotonic()
            tried, wrong = run_hashed(release, counts)
            spent = time.monotonic() - started
            print(f"corruption | {tried.total():,} damaged objects | {len(wrong)} accepted | {spent:.0f} s", flush=True)
        if options.only != "hashed":
            started = time.monotonic()
            outcomes = run_unhashed(release, Path(folder) / "children", children)
            spent = time.monotonic() - started
            sums = {name: sum(count for key, count in outcomes.items() if name in key) for name in ENDS}
            shown = ", ".join(f"{sums[name]:,} {name}" for name in ENDS)
            print(f"corruption without hashes | {outcomes.total():,} files in children | {shown} | {spent:.0f} s")
            for outcome, number in sorted(outcomes.items()):
                print(f"  {outcome}: {number:,}")
            started = time.monotonic()
            guarded = run_guarded(release, Path(folder) / "guarded", FULL_GUARDED if options.full else 20)
            spent = time.monotonic() - started
            shown = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(guarded.items()))
            print(f"corruption by the guard | {guarded.total():,} releases | {shown}, 0 taken down | {spent:.0f} s")
    for sentence in wrong[:20]:
        print(f"  accepted or parsed: {sentence}")
    sys.exit(1 if wrong else 0)


ENDS = ("refused", "same", "different", "died")


if __name__ == "__main__":
    main()
