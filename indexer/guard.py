"""A release is opened in a child process first: what takes that down, or answers wrongly, never reaches its parent.

The child is a fresh interpreter without the environment's credentials. It may take so much memory and time as the
release's size allows, write no file and keep no core. It checks, maps and searches everything as its parent will.
A child that never began, that was ended from outside, or that the machine is too slow for, says nothing about the
release.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from indexer.errors import ConfigError, IntegrityError, StoreError
from indexer.manifest import Manifest, write_manifest

CHILD = "indexer.guard_child"
BASE_BYTES = 512 << 20
"""Interpreter, libraries and what they set aside (256 MiB measured), beside twice the files."""
MEMORY_TIMES, ENCODER_TIMES = 2, 4
"""Times its size that a file may take, and the encoder, whose weights are parsed, converted and packed."""
RESERVED_BYTES = 8 << 30
"""Addresses beside those of the files: libraries and arenas reserve many that they never use."""
BASE_SECONDS = 30
BYTES_PER_SECOND = 10 << 20
"""The slowest processor that a release is judged on."""
WAIT_TIMES = 3
"""Times the processor time of a child that it is waited for: its disk, and others on its machine, may be slow."""
PASSED_ON = ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""Of the environment; neither credentials nor settings are among them."""
ALONE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",
}
"""One thread in every library: the stacks of a thread for each of many cores would count as memory of the child."""
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that none of the limits set here sends: the kernel does where memory is short, and who stops a service."""
PACKAGE_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class ChildLimits:
    """What a child may take."""

    memory_bytes: int
    """Of its own, beside the pages of the files that it maps."""
    address_bytes: int
    seconds: int
    """Of processor time."""

    @classmethod
    def of(cls, manifest: Manifest) -> "ChildLimits":
        """Return the limits for the files of a release."""
        total = sum(item.bytes for item in manifest.downloads)
        encoder = sum(item.bytes for item in manifest.encoder.objects)
        return cls(
            memory_bytes=BASE_BYTES + MEMORY_TIMES * (total - encoder) + ENCODER_TIMES * encoder,
            address_bytes=RESERVED_BYTES + 4 * total,
            seconds=BASE_SECONDS + total // BYTES_PER_SECOND,
        )

    def apply(self) -> None:
        """Bind this process, which is the child; it maps two files a shard, and may open as many as can be."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # Some systems name no limit, and take none.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for kind, value in (
            (resource.RLIMIT_DATA, self.memory_bytes),
            (resource.RLIMIT_AS, self.address_bytes),
            (resource.RLIMIT_CPU, self.seconds),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            _, hard = resource.getrlimit(kind)
            if kind == resource.RLIMIT_CPU and hard != resource.RLIM_INFINITY:
                # At the hard limit the kernel kills, as it does where memory is short.
                value = min(value, max(1, hard - 1))
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def try_release(
    manifest: Manifest, files: Mapping[str, Path], *, place: str, limits: ChildLimits | None = None
) -> None:
    """Open a release of verified files in a child and ask its canaries.

    Raises IntegrityError naming the file where the child crashes, takes too much processor time or memory, refuses a
    file or gets another answer than the builder did; StoreError where it does not end in time, as on a machine that is
    busy, was ended from outside, or the system refuses it a file; ConfigError where no child can be started that has
    the package.
    """
    allowed = limits or ChildLimits.of(manifest)
    order = {
        "limits": allowed.__dict__,
        "place": place,
        "manifest": write_manifest(manifest).decode(),
        "files": {key: str(path.resolve()) for key, path in files.items()},
    }
    told, problem = _run_child(order, WAIT_TIMES * allowed.seconds)
    for line in told:
        if "refused" in line:
            raise IntegrityError(line["refused"])
        if "failed" in line:
            raise StoreError(f"guard: {line['failed']}")
    if not any("survived" in line for line in told):
        _refuse(told, problem, place)


def _list_import_path() -> list[str]:
    """Return where this process imports from, in its order, for a child that works in another folder.

    An empty entry stands for the folder that this process began in: of that, the package alone is wanted.
    """
    paths = [Path(path).resolve() if path else PACKAGE_ROOT for path in sys.path]
    return [str(path) for path in (paths if PACKAGE_ROOT in paths else [*paths, PACKAGE_ROOT])]


def _run_child(order: Mapping[str, Any], seconds: int) -> tuple[list[dict[str, Any]], str]:
    """Return what the child told and how it ended.

    Raises ConfigError where it never began, StoreError at the end of its time and where it was ended from outside.
    """
    if not sys.executable:
        raise ConfigError("guard: there is no Python interpreter to start a child with; open with guard='never'")
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= ALONE | {"PYTHONPATH": os.pathsep.join(_list_import_path())}
    try:
        # -P: the working directory is no place to import from.
        ended = subprocess.run(
            [sys.executable, "-P", "-m", CHILD],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=seconds,
            cwd="/",
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        _require_start(_read_lines(error.stdout or b""), f"it told nothing in {seconds} s")
        raise StoreError(
            f"guard: the child process that opens the release did not end within {seconds} s; the machine or its disk "
            "is slow or busy, try again"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"guard: {sys.executable} cannot be started: {error.strerror}; open with guard='never'"
        ) from None
    last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    problem = f"it ended with {how}{f' ({last})' if last else ''}"
    if ended.returncode == -signal.SIGXCPU:
        problem = f"it took more than {order['limits']['seconds']} s of processor time"
    told = _read_lines(ended.stdout)
    if -ended.returncode in FROM_OUTSIDE:
        raise StoreError(
            f"guard: the child process that opens the release was ended from outside, by signal {-ended.returncode}, "
            "as where memory is short or the service is stopped; try again, with more memory"
        )
    _require_start(told, problem)
    return told, problem


def _require_start(told: list[dict[str, Any]], problem: str) -> None:
    """Raise ConfigError unless the child had all that it needs before it touched a file."""
    if not any("started" in line for line in told):
        raise ConfigError(
            f"guard: the guard could not start with {sys.executable}: {problem}; expected a Python interpreter that "
            "can import the package. Set sys.executable to one, or open with guard='never'"
        )


def _read_lines(output: bytes) -> list[dict[str, Any]]:
    """Return the documents of whole lines; whatever else a dying process wrote is left out."""
    found = []
    for line in output.splitlines():
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            found.append(document)
    return found


def _refuse(told: list[dict[str, Any]], problem: str, place: str) -> NoReturn:
    opening = [line["opening"] for line in told if "opening" in line]
    where = f"{place}/{opening[-1]}" if opening else place
    raise IntegrityError(
        f"{where}: the child process that opened the release did not survive: {problem}; the release is not served, "
        "look at the file"
    )
