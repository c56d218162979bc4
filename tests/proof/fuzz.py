"""Coverage-guided fuzzing of every reader of bytes from outside, by atheris (`pip install atheris`).

    python -m tests.proof.fuzz manifest --seconds 600
    python -m tests.proof.fuzz all --seconds 600

An input fails that raises anything but the project's own errors, takes more than a second of the processor or lets the
process grow beyond 512 MiB; it is kept below `--keep`. What was found and mended lies in `corpus/`, which the fast
tests replay without atheris.
"""

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_SECONDS = 1
MAX_MEGABYTES = 512
MAX_BYTES = 1 << 16
NAMES = ("manifest", "log-entry", "config", "catalogue", "index", "model", "encoder", "canaries")


class SlowInputError(AssertionError):
    """An input took more time than any may."""


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz in this process until libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["indexer"], enable_loader_override=False):
        from tests.proof import fuzz_targets

    def try_input(data: bytes) -> None:
        started = time.process_time()
        fuzz_targets.run_target(name, data)
        if (spent := time.process_time() - started) > MAX_SECONDS:
            raise SlowInputError(f"{spent:.1f} s of the processor")

    atheris.Setup([sys.argv[0], *arguments], try_input)
    atheris.Fuzz()


def run_fuzzer(name: str, seconds: int, keep: Path) -> tuple[int, int, int, str]:
    """Fuzz in a child; return the inputs tried, those that failed, MiB at the peak, and the end of what it wrote."""
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as fresh:
        command = [sys.executable, "-m", "tests.proof.fuzz", name, "--inside", fresh]
        command += [str(Path(__file__).parent / "corpus" / name), f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}"]
        # Time is measured by the processor's; this one ends an input that never does.
        command += ["-timeout=30", f"-rss_limit_mb={MAX_MEGABYTES}", "-print_final_stats=1"]
        command += [f"-artifact_prefix={keep}/{name}-"]
        ended = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    text = ended.stderr.decode("utf-8", "replace") + ended.stdout.decode("utf-8", "replace")
    inputs = max([int(number) for number in re.findall(r"number_of_executed_units:\s*(\d+)", text)] or [0])
    peak = max([int(number) for number in re.findall(r"peak_rss_mb:\s*(\d+)", text)] or [0])
    return inputs, int(ended.returncode != 0 or inputs == 0), peak, text[-3_000:]


def main() -> None:
    """Parse the command line, print one line a target, and end with 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--inside", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.inside is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        fuzz(options.name, options.inside)
        return
    failed = 0
    for name in NAMES if options.name == "all" else [options.name]:
        started = time.monotonic()
        inputs, findings, peak, text = run_fuzzer(name, options.seconds, options.keep)
        spent = time.monotonic() - started
        print(f"fuzz {name} | {inputs:,} inputs | {findings} failed | {peak} MiB | {spent:.0f} s", flush=True)
        if findings:
            print(text, flush=True)
        failed += findings
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
