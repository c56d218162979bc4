"""The lines of `make proof`."""

from indexer.build.site import LocalSite


def print_line(name: str, size: str, found: str, seconds: float) -> None:
    """Print one line of the table: what was proved, how much of it, what was found, and how long it took."""
    print(f"{name} | {size} | {found} | {seconds:.0f} s", flush=True)


def hide_plans() -> None:
    """Let the builds of this process print no plan: there are thousands."""
    LocalSite.tell = lambda *_: None  # type: ignore[method-assign]
