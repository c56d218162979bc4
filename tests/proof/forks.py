"""Commands in forks of a process that has imported everything and has run nothing: quick, and each killed alone."""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import list_products
from tests.proof.shop import Shop


def start_fork(body: Callable[[], int], output: Path) -> int:
    """Run the body in a fork of this process, its output in a file, and return the number of that process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        target = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        code = body()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def await_fork(child: int) -> int:
    """Wait for a fork and return its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork(body: Callable[[], int], output: Path) -> int:
    """Run the body in a fork and return how that ended."""
    return await_fork(start_fork(body, output))


def run_indexer(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return its exit code."""
    from indexer.cli.group import indexer

    try:
        indexer(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def read_document(output: str) -> Any:
    """Return the JSON document of a command's output; the plan and errors, which stderr adds, stand before it."""
    return json.loads(output[output.index("{\n") :])


def import_everything(folder: Path) -> None:
    """Import what a build imports on its way, so that forks of this process need not; a fork finds out what."""
    shop, names = Shop(folder / "imports").write(list_products(20)), folder / "names"

    def build() -> int:
        code = run_indexer(shop.build_command(1))
        names.write_text("\n".join(name for name in sys.modules if name.split(".")[0] not in ("tests", "__main__")))
        return code

    assert fork(build, folder / "output") == 0, (folder / "output").read_text()
    for name in names.read_text().splitlines():
        # Some are made by others and have no file of their own.
        with suppress(ImportError):
            importlib.import_module(name)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder in memory, where that is to be had: a disk waits for each file."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)
