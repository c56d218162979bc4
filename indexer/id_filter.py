"""Which ids of a collection a search may return."""

from collections.abc import Iterable
from dataclasses import dataclass

from indexer.errors import ConfigError
from indexer.id_rows import HashedIds, hash_ids


@dataclass(frozen=True, kw_only=True, eq=False)
class IdFilter:
    """An allow-list, a deny-list or both, made once for many searches.

    It belongs to no release: each finds its own rows of the ids, once, and keeps one bit a row as long as the filter
    lives. Ids that a release does not have are no error; tomorrow's may have them.
    """

    collection: str
    among: HashedIds | None
    """Only these are found; None stands for all."""
    without: HashedIds | None
    """These are not found."""


def make_filter(collection: str, among: Iterable[str] | None, without: Iterable[str] | None) -> IdFilter:
    """Return the filter of these ids; raises ConfigError where they are not a collection of texts."""
    return IdFilter(collection=collection, among=_read(among, "among"), without=_read(without, "without"))


def _read(ids: Iterable[str] | None, name: str) -> HashedIds | None:
    if ids is None:
        return None
    # A text is a collection of texts, too, but nobody means its letters.
    items: list[object] = [b""] if isinstance(ids, str) else list(ids)
    wanted = [item for item in items if isinstance(item, str)]
    if len(wanted) < len(items):
        raise ConfigError(f"{name}: expected a set or list of ids, each a text, found {ids!r:.100}")
    return hash_ids(wanted)
