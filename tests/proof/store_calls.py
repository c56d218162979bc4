"""Something that happens at the calls of a local store: in front of one, inside a creation, or after it was applied."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from indexer.store import LocalStore
from indexer.store import local as stores

READS = ("get", "get_file", "size", "list")
WRITES = ("put_new", "put_file", "delete")
Hook = Callable[[LocalStore, str, str, str], None]
"""Is given the store, `before`, `half` or `after`, the verb and the key; `half` is in front of the final name."""


@contextmanager
def watch_calls(hook: Hook) -> Iterator[None]:
    """Call the hook at every call of every local store of this process."""
    saved = {verb: getattr(LocalStore, verb) for verb in (*READS, *WRITES)}
    link, current = stores._link_new, []

    def watch(verb: str) -> Callable[..., Any]:
        original = saved[verb]

        def call(self: LocalStore, key: str, *arguments: Any) -> Any:
            hook(self, "before", verb, key)
            if verb in WRITES:
                current[:] = [(self, verb)]
            found = original(self, key, *arguments)
            # A listing is made as a whole, as in a bucket's answer.
            found = iter(list(found)) if verb == "list" else found
            hook(self, "after", verb, key)
            return found

        return call

    def link_watched(draft: Any, final: Any, url: str, key: str) -> None:
        hook(current[0][0], "half", current[0][1], key)
        link(draft, final, url, key)

    try:
        for verb in saved:
            setattr(LocalStore, verb, watch(verb))
        stores._link_new = link_watched
        yield
    finally:
        for verb, original in saved.items():
            setattr(LocalStore, verb, original)
        stores._link_new = link
