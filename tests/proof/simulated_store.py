"""A store in a dictionary whose calls wait for a scheduler, which may lose, delay or repeat them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import greenlet

from indexer.errors import ObjectMissingError, StoreError
from indexer.store import READ_ATTEMPTS, WHOLE_BYTES, StoredObject, check_size


class LostError(StoreError):
    """The request or its answer was lost."""


class Killed(greenlet.GreenletExit):  # type: ignore[name-defined,misc]
    """The process is gone in the middle of a call."""


@dataclass(frozen=True)
class Request:
    """A call on its way."""

    apply: Callable[[], Any]
    writes: bool
    """Whether it changes the store: then it may arrive long after its sender has given it up."""


class Objects(Protocol):
    """What holds the objects, and looks at every change."""

    objects: dict[str, tuple[bytes, Any]]

    def create(self, key: str, data: bytes, sender: Any, *, replacing: bool = False) -> None: ...

    def delete(self, key: str) -> None: ...

    def note_listing(self, prefix: str, sender: Any) -> None: ...


class MemoryFile:
    """A file that an upload reads, without a disk."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.st_size = len(data)

    def read_bytes(self) -> bytes:
        return self.data

    def stat(self) -> "MemoryFile":
        return self


class SimulatedStore:
    """The verbs of a store; every process is a greenlet, and its parent decides what becomes of each call."""

    url = "simulated"

    def __init__(self, world: Objects) -> None:
        self.world = world

    def get(self, key: str, limit: int = WHOLE_BYTES) -> bytes:
        data: bytes = self._call(lambda: self._find(key))
        check_size(len(data), limit, key)
        return data

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self._call(lambda: self._find(key)))

    def size(self, key: str) -> int:
        return self._call(lambda: len(self._find(key)))

    def put_new(self, key: str, data: bytes) -> None:
        self.create(key, data, attempts=1)

    def put_file(self, key: str, path: Path) -> None:
        self.create(key, path.read_bytes(), attempts=READ_ATTEMPTS, replacing=True)

    def create(self, key: str, data: bytes, *, attempts: int, replacing: bool = False) -> None:
        sender = greenlet.getcurrent()
        self._call(lambda: self.world.create(key, data, sender, replacing=replacing), attempts, writes=True)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        sender = greenlet.getcurrent()

        def find() -> list[StoredObject]:
            self.world.note_listing(prefix, sender)
            objects = self.world.objects
            keys = sorted(key for key in objects if key.startswith(prefix))
            return [StoredObject(key, len(objects[key][0]), objects[key][1]) for key in keys]

        return iter(self._call(find))

    def delete(self, key: str) -> None:
        self._call(lambda: self.world.delete(key), writes=True)

    def _find(self, key: str) -> bytes:
        if key not in self.world.objects:
            raise ObjectMissingError(key)
        return self.world.objects[key][0]

    def _call(self, apply: Callable[[], Any], attempts: int = READ_ATTEMPTS, *, writes: bool = False) -> Any:
        request = Request(apply, writes)
        for _ in range(attempts - 1):
            try:
                return greenlet.getcurrent().parent.switch(request)
            except LostError:
                continue
        return greenlet.getcurrent().parent.switch(request)
