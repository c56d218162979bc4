"""The machine: Java, Python and packages, processor, memory and disk, against what the project asks for."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from indexer.config import ShopConfig
from indexer.doctor.findings import Finding, failed, passed, warned
from indexer.errors import ConfigError
from indexer.signature import open_shop_key

PROJECT = "nightly-semantic-index"
PARTS = {
    "build": "`indexer build`",
    "spark": "the Spark jobs",
    "distill": "`indexer distill`",
    "export": "`indexer export`",
    "signing": "what signs a log or pins a key",
}
"""Extra -> what needs it."""
UNFIT = ConfigError.exit_code
LEAST_MEMORY, LEAST_DISK, GOOD_DISK = 2 << 30, 1 << 30, 10 << 30
FLAGS = {"x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v3": "avx2 bmi2 fma f16c movbe"}
GIB = 1 << 30


def examine_machine(
    *,
    work: Path | None,
    java: Callable[[], str],
    needs_java: bool,
    memory_limit_gib: float = 0,
    shop: ShopConfig | None = None,
) -> Iterator[Finding]:
    """Look at everything, one finding each.

    `java` returns the version of the Java that Spark would get and raises ConfigError where there is none; `work` is
    the folder that a night writes to, if it is known.
    """
    yield check_python()
    yield from check_packages()
    if shop and shop.signing_key:
        yield check_signing(shop)
    yield check_java(java, needed=needs_java)
    yield check_processor()
    yield check_memory(memory_limit_gib)
    if work is not None:
        yield check_disk(work)


def check_python(version: str = platform.python_version()) -> Finding:
    """Compare the interpreter with the floor of the package's own metadata."""
    with suppress(metadata.PackageNotFoundError):
        floor = metadata.metadata(PROJECT)["Requires-Python"]
        if not SpecifierSet(floor).contains(version, prereleases=True):
            return failed("python", f"{version} where {floor} is needed", "install another Python", UNFIT)
    return passed("python", f"{version}, {platform.machine()}")


def check_packages() -> Iterator[Finding]:
    """Compare what is installed with the floors of the package's own metadata, part by part."""
    try:
        wanted = [Requirement(line) for line in metadata.requires(PROJECT) or ()]
    except metadata.PackageNotFoundError:
        yield warned("packages", f"{PROJECT} is not installed, its floors are unknown", "run: pip install .")
        return
    yield _judge_packages("base", [item for item in wanted if item.marker is None], "everything")
    for extra, user in PARTS.items():
        needed = [item for item in wanted if item.marker and item.marker.evaluate({"extra": extra})]
        if needed:
            yield _judge_packages(extra, needed, user)


def _judge_packages(part: str, wanted: list[Requirement], user: str) -> Finding:
    absent, wrong = [], []
    for item in wanted:
        try:
            version = metadata.version(item.name)
        except metadata.PackageNotFoundError:
            absent.append(item.name)
            continue
        if not item.specifier.contains(version, prereleases=True):
            wrong.append(f"{item.name} {version} where {item.specifier} is needed")
    subject, advice = f"packages of {part}", f"run: pip install '{PROJECT}[{part}]'".replace("[base]", "")
    if wrong:
        return failed(subject, ", ".join(wrong), advice, UNFIT)
    if absent and part == "base":
        return failed(subject, f"not installed: {', '.join(absent)}", advice, UNFIT)
    if absent:
        return warned(subject, f"not installed: {', '.join(absent)}; {user} cannot run here", advice)
    return passed(subject, f"{len(wanted)} at their floors or above")


def check_signing(shop: ShopConfig) -> Finding:
    """Open the key that the shop signs with, as a night does at its start."""
    try:
        key = open_shop_key(shop)
    except ConfigError as error:
        return failed("signing key", str(error), "correct shop.signing_key or shop.public_keys", UNFIT)
    assert key
    return passed("signing key", f"{key.path} opens, {len(key.trusted.keys)} trusted in {key.trusted.path}")


def check_java(java: Callable[[], str], *, needed: bool) -> Finding:
    """Tell which Java Spark gets; a shop without purchases needs none."""
    try:
        return passed("java", java())
    except (ConfigError, ModuleNotFoundError) as error:
        if needed:
            return failed("java", str(error), "the shop has purchases, so a night runs Spark", UNFIT)
        return warned("java", str(error), "without it the Spark jobs cannot run here")


def check_processor() -> Finding:
    """Tell how many cores a process gets, and which instructions faiss uses of those there are."""
    import faiss

    level = read_level()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = str(faiss.SIMDConfig.get_level_name())
    found = f"{cores} cores, {level or platform.machine()}; faiss {faiss.__version__} uses {used}"
    if level is None and platform.machine() in ("x86_64", "AMD64"):
        return warned("processor", found, "builds are slow below x86-64-v3 (AVX2): choose another machine")
    if level and used == "NONE":
        return warned("processor", found, "faiss uses no vector instructions: install the wheel faiss-cpu from PyPI")
    return passed("processor", found)


def read_level(path: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the x86-64 level of the processor from v3 on, None below it or where nobody knows."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    names = {level: set(words.split()) for level, words in FLAGS.items()}
    # The higher level holds the lower one.
    levels = [level for level, needed in names.items() if needed | names["x86-64-v3"] <= flags]
    return levels[0] if levels else None


def check_memory(limit_gib: float = 0) -> Finding:
    """Compare the memory a process can have with what is set for a build, or with little."""
    free = read_memory()
    if free is None:
        return warned("memory", "cannot be told here", "see `indexer build --dry-run` for what a build needs")
    found = f"{free / GIB:.1f} GiB available"
    if limit_gib * GIB > free:
        advice = f"index.memory_limit_gib is {limit_gib:g}: free memory, or lower it and have more shards"
        return warned("memory", found, advice)
    if free < LEAST_MEMORY:
        return warned("memory", found, "little for a night: see `indexer build --dry-run` for what the build needs")
    return passed("memory", found)


def read_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that are available on the machine or left to the control group, whichever is less."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    group = root / "sys/fs/cgroup"
    try:
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return min(free, default=None)
    return min(free)


def check_disk(work: Path) -> Finding:
    """Write a file where the night writes, and tell how much more fits."""
    there = work
    try:
        there = next(path for path in (work.absolute(), *work.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"probe")
        free = shutil.disk_usage(there).free
    except OSError as error:
        return failed("disk", f"{there}: {error.strerror}", "correct shop.work, or its rights", UNFIT)
    found = f"{free / GIB:.1f} GiB free for {work}"
    if free < LEAST_DISK:
        return failed("disk", found, "free some, or correct shop.work", UNFIT)
    if free < GOOD_DISK:
        return warned(
            "disk", found, "tables, checkpoints and unfinished shards of every night lie there: mind its growth"
        )
    return passed("disk", found)
