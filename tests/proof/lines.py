"""The lines of `make proof`."""


def print_line(name: str, size: str, found: str, seconds: float) -> None:
    """Print one line of the table: what was proved, how much of it, what was found, and how long it took."""
    print(f"{name} | {size} | {found} | {seconds:.0f} s", flush=True)
