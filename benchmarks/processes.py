"""What a contender's processes need: peak resident memory of a process and all that it starts."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 0.05


def run_watched(command: list[str]) -> tuple[str, dict[str, int]]:
    """Run a command to its end; return what it printed, and the peak bytes of its JVM and of its other processes.

    Ends the run where the command fails.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peaks: dict[str, int] = {}
        watching = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watching.start()
        output = process.stdout.read() if process.stdout else ""
    watching.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return output, peaks


def _watch(process: "subprocess.Popen[str]", peaks: dict[str, int]) -> None:
    """Keep the largest resident memory of the JVM and of the other processes, each summed, until the end."""
    while process.poll() is None:
        sums = {"java": 0, "python": 0}
        for name, resident in _descendants(process.pid):
            sums["java" if name == "java" else "python"] += resident
        for name, value in sums.items():
            peaks[name] = max(peaks.get(name, 0), value)
        time.sleep(POLL_SECONDS)


def _descendants(root: int) -> Iterator[tuple[str, int]]:
    parents, facts = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            fields = rest.split()
            parents[int(entry.name)] = int(fields[1])
            facts[int(entry.name)] = (name, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    for pid, fact in facts.items():
        above: int | None = pid
        while above and above != root:
            above = parents.get(above)
        if above == root:
            yield fact
