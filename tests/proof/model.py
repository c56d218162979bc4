"""What may be live, kept and damaged, in plain Python from the files of the log: the oracle beside the real code."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Promised(NamedTuple):
    """An object as a manifest describes it."""

    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A manifest as it was when its entry appeared."""

    run_id: str
    run_date: str
    parent: int
    manifest: Promised
    objects: tuple[Promised, ...]


@dataclass
class Model:
    """The log of a folder as far as it has been looked at, and what was done to the objects."""

    root: Path
    texts: list[bytes] = field(default_factory=list)
    releases: dict[str, Release] = field(default_factory=dict)
    """Manifest's key -> the release."""
    published: dict[str, Release] = field(default_factory=dict)
    """Run -> its newest publication, in the order of these."""
    live: Release | None = None
    live_sequence: int = 0
    live_kind: str = ""
    retired: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    corrupted: dict[str, int] = field(default_factory=dict)
    """Key -> the moment at which its bytes were changed."""

    def read_log(self, since: int) -> None:
        """Take in new entries, whose writer has been at work since a moment; raises AssertionError for a wrong one."""
        paths = sorted((self.root / "log").glob("[0-9]*.json"))
        assert [path.stem for path in paths] == [f"{number:020d}" for number in range(1, len(paths) + 1)]
        assert [path.read_bytes() for path in paths[: len(self.texts)]] == self.texts, "an entry was changed"
        for path in paths[len(self.texts) :]:
            self.texts.append(path.read_bytes())
            self._enter(json.loads(self.texts[-1]), since)

    def check_objects(self) -> None:
        """Raise AssertionError where an object of a release that may go live is not there."""
        for run_id, release in self.published.items():
            if run_id not in self.retired:
                for item in (release.manifest, *release.objects):
                    assert (self.root / item.key).exists(), f"{item.key} of {run_id}, which may go live, is gone"

    def find_damage(self, release: Release) -> list[str]:
        """Return the keys of a release whose objects are not as they were published."""
        return [item.key for item in (release.manifest, *release.objects) if not self._is_whole(item)]

    def names(self, key: str) -> bool:
        """Whether the log names a manifest."""
        return key in self.releases

    def _enter(self, entry: dict[str, Any], since: int) -> None:
        assert entry["parent"] == entry["sequence"] - 1 == len(self.texts) - 1
        if entry["kind"] in ("publish", "rollback"):
            self._go_live(entry, since)
        elif entry["kind"] == "retire":
            runs = set(entry["runs"])
            assert self.live is None or self.live.run_id not in runs, "the live run was retired"
            assert not runs & self.pinned, "a pinned run was retired"
            self.retired |= runs
        else:
            runs = set(entry["runs"])
            self.pinned = self.pinned | runs if entry["kind"] == "pin" else self.pinned - runs

    def _go_live(self, entry: dict[str, Any], since: int) -> None:
        run_id, key = entry["run_id"], entry["manifest"]["key"]
        assert run_id not in self.retired, f"{run_id} is retired and went live"
        again = key in self.releases
        release = self.releases.get(key) or self._read_release(run_id, Promised(**entry["manifest"]))
        damage = [place for place in self.find_damage(release) if self.corrupted.get(place, -1) <= since]
        assert not damage, f"{run_id} went live with damaged objects: {damage}"
        before = self.live
        if entry["kind"] == "rollback":
            assert self.published[run_id] == release, "a rollback to what was never published, or to an older one"
        else:
            # Nobody can tell the night of a release whose manifest was changed.
            dated = before and before.manifest.key not in self.corrupted
            assert not before or not dated or release.run_date >= before.run_date, "an older night replaced a newer one"
            assert again or release.parent >= self.live_sequence, "another release went live since it was planned"
            assert not again or self.live_kind == "publish", "a rerun undid a rollback"
            assert before is None or before != release, "a release was published twice"
            self.published.pop(run_id, None)
            self.published[run_id] = release
        self.releases[key] = release
        self.live, self.live_sequence, self.live_kind = release, entry["sequence"], entry["kind"]

    def _read_release(self, run_id: str, manifest: Promised) -> Release:
        document = json.loads((self.root / manifest.key).read_bytes())
        assert document["run_id"] == run_id
        return Release(run_id, document["run_date"], document["parent"], manifest, tuple(find_objects(document)))

    def _is_whole(self, item: Promised) -> bool:
        path = self.root / item.key
        if not path.exists():
            return False
        data = path.read_bytes()
        return (len(data), hashlib.sha256(data).hexdigest()) == (item.bytes, item.sha256)


def find_objects(document: Any) -> Iterator[Promised]:
    """Yield every object that a document names."""
    if isinstance(document, dict):
        if set(document) == set(Promised._fields):
            yield Promised(**document)
        else:
            for value in document.values():
                yield from find_objects(value)
    elif isinstance(document, list):
        for value in document:
            yield from find_objects(value)
