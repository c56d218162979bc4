"""Builds on Spark whose driver or one of whose executors is killed by SIGKILL at a random moment.

A job that loses an executor ends well by itself; what a killed driver has sealed is taken up by the next build, here on
one machine. Both publish what an undisturbed build does, and no sealed shard is built again. Minutes long.

    python -m tests.proof.spark_kills --full
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyspark

from spark.java import find_java
from tests.conftest import list_products
from tests.proof.forks import import_everything, open_folder
from tests.proof.kills import Trial
from tests.proof.lines import print_line
from tests.proof.shop import ENCODER, Shop, describe_content, name_date

ROOT = Path(__file__).parents[2]
CLUSTER = f"""
[spark]
master = "local-cluster[2,1,512]"
driver_memory = "512m"
shuffle_partitions = 2
[spark.conf]
"spark.executor.memory" = "512m"
"spark.executorEnv.PYTHONPATH" = "{ROOT}"
"""
SHARDS = 6
WAIT_SECONDS = 300


class Job:
    """One run of the job, with its Java processes in a group of its own."""

    def __init__(self, shop: Shop, night: int) -> None:
        arguments = ["--config", shop.folder / "shop.toml", "--run-date", name_date(night), "--encoder", ENCODER]
        given = {name: value for name, value in os.environ.items() if name != "PYSPARK_PYTHON"}
        home = {"JAVA_HOME": str(find_java()), "SPARK_HOME": str(Path(pyspark.__file__).parent)}
        self.output = shop.folder / "spark-output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                list(map(str, [sys.executable, "-m", "jobs.build_index", *arguments])),
                env=given | home | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable},
                cwd=shop.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill_driver(self) -> bool:
        """Kill the driver, unless it has ended."""
        if self.process.poll() is not None:
            return False
        self.process.kill()
        self.process.wait()
        return True

    def kill_executor(self, draw: random.Random) -> bool:
        """Kill an executor as soon as there is one; return whether the job was still at work."""
        while self.process.poll() is None:
            if found := self._find_executors():
                os.kill(draw.choice(found), signal.SIGKILL)
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        """End what a killed driver has left."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _find_executors(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                own = os.getpgid(int(path.name)) == self.process.pid
                if own and b"CoarseGrainedExecutorBackend" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found


def kill_at_random(folder: Path, kills: int, seed: int = 0) -> str:
    """Kill drivers and executors in turn; return what was found. Raises AssertionError."""
    draw, done, sealed, faster = random.Random(seed), {"driver": 0, "executor": 0}, 0, 0
    folder.mkdir()
    base = Shop(folder / "base").write(list_products(300), shards=SHARDS)
    with (base.folder / "shop.toml").open("a") as file:
        file.write(CLUSTER)
    trial = Trial(folder, "spark", base, 1)
    seconds = _time_job(trial)
    while sum(done.values()) < kills:
        kind = "driver" if done["driver"] <= done["executor"] else "executor"
        shop = trial.copy("killed")
        job = Job(shop, trial.night)
        try:
            time.sleep(draw.uniform(0.3, 1.0) * seconds)
            if not (job.kill_driver() if kind == "driver" else job.kill_executor(draw)):
                faster += 1
                continue
            if kind == "executor":
                assert job.process.wait(WAIT_SECONDS) == 0, job.output.read_text()[-5_000:]
        finally:
            job.close()
        done[kind] += 1
        sealed += trial.check_killed(shop, f"{kind} {done[kind]}")
    size = f"{done['driver']} drivers and {done['executor']} executors"
    return f"{size} | 0 torn, 0 of {sealed} sealed shards and encoders rebuilt, {faster} builds were faster"


def _time_job(trial: Trial) -> float:
    """Return how long a job takes, whose release must be that of one machine."""
    started, shop = time.monotonic(), trial.copy("timed")
    job = Job(shop, trial.night)
    try:
        assert job.process.wait(WAIT_SECONDS) == 0, job.output.read_text()[-5_000:]
    finally:
        job.close()
    _, manifest = shop.read_live()
    assert manifest is not None
    assert describe_content(manifest) == trial.expected
    return time.monotonic() - started


def main() -> None:
    """Parse the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="30 kills")
    parser.add_argument("--kills", type=int, default=4)
    options = parser.parse_args()
    with open_folder() as folder:
        import_everything(folder)
        started = time.monotonic()
        size, found = kill_at_random(folder / "spark", 30 if options.full else options.kills).split(" | ")
        print_line("kills on Spark", size, found, time.monotonic() - started)


if __name__ == "__main__":
    main()
