"""What stands in a simulation for threads, files and waiting, and what makes it quick."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from indexer import log
from indexer import manifest as manifests
from indexer.build import publish as publishing
from indexer.releases import changes, history, verify
from tests.proof.broken_rules import BROKEN, Patch
from tests.proof.simulated_store import MemoryFile


class SerialPool:
    """Stands for a pool of threads: a process of a simulation has one."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "SerialPool":
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], *items: Any) -> Iterator[Any]:
        return map(function, *items)


def _hash(file: MemoryFile) -> str:
    return hashlib.sha256(file.data).hexdigest()


def _write_compact(document: Any) -> bytes:
    """Spell a document without the indents that only Python's slow writer makes, and without a copy of it."""
    return json.dumps(document, sort_keys=True, allow_nan=False, default=vars).encode()


def _list_fields(document: Any) -> dict[str, Any]:
    """Give the fields without a copy of what they hold."""
    return dict(vars(document))


# Entries and manifests are frozen: equal bytes may share them.
FASTER: list[Patch] = [
    (log, "parse_entry", lru_cache(20_000)(log.parse_entry)),
    (log, "parse_manifest", lru_cache(20_000)(log.parse_manifest)),
    *((module, "write_document", _write_compact) for module in (log, manifests, publishing)),
    *((module, "asdict", _list_fields) for module in (log, manifests, publishing)),
]


@contextmanager
def replaced(patches: Sequence[Patch]) -> Iterator[None]:
    """Replace names of modules and classes for the time of the block, and commit without waiting."""
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    defaults = dict(log.commit_entry.__kwdefaults__)
    log.commit_entry.__kwdefaults__["sleep"] = lambda _: None
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(saved):
            setattr(owner, name, value)
        log.commit_entry.__kwdefaults__.update(defaults)


def serial() -> AbstractContextManager[None]:
    """Let the real code work without threads and without waiting, for the time of the block."""
    return replaced([(module, "ThreadPoolExecutor", SerialPool) for module in (history, verify)])


@contextmanager
def simulated(broken: str = "") -> Iterator[None]:
    """Replace what a simulation cannot have, threads, files and waiting, and the rule that is to be broken."""
    patches: list[Patch] = [(history, "ThreadPoolExecutor", SerialPool), (publishing, "hash_file", _hash), *FASTER]
    patches += BROKEN.get(broken, ())
    # Each schedule puts a clock of its own in their place.
    patches += [(module, "now_text", module.now_text) for module in (publishing, changes)]
    with replaced(patches):
        yield
