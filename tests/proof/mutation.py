"""A line for each part of the code that mutmut has changed: how many changes, and how many a test noticed.

    mutmut run && python -m tests.proof.mutation

Ends with 1 where fewer than nine tenths of a part's changes were noticed, or not all were tried.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

LEAST = 0.9
PARTS = {
    "commit": ("log", "build.publish", "build.published"),
    "gc": ("releases.garbage",),
    "manifest": ("manifest",),
    "gates": ("build.gates",),
    "operators": ("releases.changes", "releases.history"),
}
NOTICED = ("killed", "timeout", "segfault")
"""What mutmut says of a change at which a test failed, hung or died."""
JUDGED = (*NOTICED, "survived", "no tests", "suspicious")
"""What it says of a change that it has done with."""
RESULT = re.compile(r"\s*indexer\.(?P<module>[a-z_.]+)\.x\S*: (?P<status>.+)")


def count_changes(results: Iterable[str]) -> dict[str, Counter[str]]:
    """Return for each part how often mutmut says what; raises ValueError for a change of a module of no part."""
    part_of = {module: part for part, modules in PARTS.items() for module in modules}
    found: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for line in results:
        if (match := RESULT.fullmatch(line)) is None:
            continue
        if match["module"] not in part_of:
            raise ValueError(f"indexer.{match['module']} is changed and stands in no part of {__name__}")
        found[part_of[match["module"]]][match["status"]] += 1
    return found


def judge(part: str, statuses: Counter[str]) -> tuple[str, bool]:
    """Return a part's line, and whether enough of its changes were noticed and all were run."""
    noticed = sum(statuses[status] for status in NOTICED)
    left = {status: number for status, number in sorted(statuses.items()) if status not in NOTICED}
    says = "".join(f", {number} {status}" for status, number in left.items())
    share = noticed / statuses.total() if statuses else 0.0
    line = f"mutation {part} | {statuses.total()} changes | {noticed} noticed, {share:.1%}{says}"
    return line, share >= LEAST and statuses.keys() <= set(JUDGED)


def main() -> None:
    """Print a line for each part."""
    mutmut = Path(sys.executable).with_name("mutmut")
    results = subprocess.run([mutmut, "results", "--all", "true"], capture_output=True, text=True, check=True).stdout
    judged = [judge(part, statuses) for part, statuses in count_changes(results.splitlines()).items()]
    print("\n".join(line for line, _ in judged))
    sys.exit(0 if all(enough for _, enough in judged) else 1)


if __name__ == "__main__":
    main()
