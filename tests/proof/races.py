"""Many real processes publish at once from one base: one wins, and the others are told which.

Each builds a release of the same night; in front of their commits they wait for each other. The last of more than two
builds what the first does: the same run, which is one entry, whoever writes it.

    python -m tests.proof.races
    python -m tests.proof.races --full
"""

import argparse
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.conftest import list_products
from tests.proof.forks import await_fork, import_everything, open_folder, read_document, run_indexer, start_fork
from tests.proof.lines import print_line
from tests.proof.shop import Shop

SIZES = (2, 4, 8, 16)
NIGHT = 2


def race(folder: Path, base: Shop, processes: int) -> str:
    """Let so many processes publish at once; return the run that won. Raises AssertionError."""
    release = folder / "release"
    shutil.copytree(base.folder / "release", release)
    barrier = get_context("fork").Barrier(processes)
    variants = [*range(processes - 1), processes - 1 if processes == 2 else 0]
    shops = [_make_shop(folder, variant) for variant in variants]
    outputs = [folder / f"output-{number}" for number in range(processes)]
    children = [start_fork(_build(shop, barrier.wait), output) for shop, output in zip(shops, outputs, strict=True)]
    codes = [await_fork(child) for child in children]
    answers = [output.read_text() for output in outputs]
    sequence, manifest = Shop(folder).read_live()
    assert manifest is not None
    assert sequence == 2, (codes, answers)
    winners = [number for number, code in enumerate(codes) if code == 0]
    runs = {read_document(answers[number])["run_id"] for number in winners}
    assert runs == {manifest.run_id}, (codes, answers)
    assert winners == [number for number, variant in enumerate(variants) if variant == variants[winners[0]]], codes
    for code, answer in zip(codes, answers, strict=True):
        assert code in (0, 5), (code, answer)
        assert code == 0 or f"run {manifest.run_id} was published first, as log entry 2" in answer, answer
    return manifest.run_id


def _make_shop(folder: Path, variant: int) -> Shop:
    """Return a shop of the common store; variants differ in an option, so that they are different runs."""
    shop = Shop(folder / f"shop-{len(list(folder.glob('shop-*')))}")
    shop.write(list_products(40)[:-3], shards=1, index=f"max_shard_rows = {100_000 + variant}")
    (shop.folder / "release").symlink_to(folder / "release")
    return shop


def _build(shop: Shop, wait: Callable[[], Any]) -> Callable[[], int]:
    def build() -> int:
        from indexer.build import release

        publish = release.publish

        def publish_together(*arguments: Any) -> Any:
            wait()
            return publish(*arguments)

        release.publish = publish_together
        return run_indexer(shop.build_command(NIGHT))

    return build


def run_races(folder: Path, rounds: int) -> str:
    """Race in so many rounds of each size; return what was found."""
    base = Shop(folder / "base").write(list_products(40), shards=1)
    assert await_fork(start_fork(lambda: run_indexer(base.build_command(1)), folder / "output")) == 0
    winners = set()
    for processes in SIZES:
        for number in range(rounds):
            place = folder / f"race-{processes}-{number}"
            place.mkdir()
            winners.add(race(place, base, processes))
            shutil.rmtree(place)
    sizes = ", ".join(map(str, SIZES))
    return f"{rounds} rounds of {sizes} processes | 1 winner each, {len(winners)} different ones"


def main() -> None:
    """Parse the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="25 rounds of each size")
    options = parser.parse_args()
    with open_folder() as folder:
        import_everything(folder)
        started = time.monotonic()
        size, found = run_races(folder, 25 if options.full else 1).split(" | ")
        print_line("races", size, found, time.monotonic() - started)


if __name__ == "__main__":
    main()
