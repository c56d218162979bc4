"""Several drivers on one step and date: one commits, the others are told, and a killed one leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from indexer.claims import claim_folder
from indexer.config_file import load_config
from indexer.runs import StepFolder
from jobs import purchase_gram

pytestmark = [pytest.mark.jvm, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
DATE, EARLIER = "2026-11-20", "2026-11-19"

DRIVER = """
import os, sys
from jobs import purchase_gram
from jobs.command import run_job

write, ready, go = purchase_gram.Account.write, int(sys.argv.pop(1)), int(sys.argv.pop(1))

def write_and_wait(self, frame, folder, table):
    rows = write(self, frame, folder, table)
    if table.name == "PURCHASES":
        os.write(ready, b"r")
        os.read(go, 1)
    return rows

purchase_gram.Account.write = write_and_wait
run_job(purchase_gram.STEP, purchase_gram.run)
"""
"""The job itself, which halts once in the middle of its work, with its table written and no commit."""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "purchases.csv").write_text("query,product_id,purchases\na,p1,40\nb,p1,30\nb,p2,50\nc,p2,60\n")
    (tmp_path / "shop.toml").write_text(
        '[shop]\nwork = "work"\n[purchases]\npath = "purchases.csv"\n'
        '[spark]\nmaster = "local[1]"\ndriver_memory = "512m"\nshuffle_partitions = 1\n'
    )
    return tmp_path


class Drivers:
    """Real processes of one job, and the pipes by which they meet."""

    def __init__(self, shop: Path) -> None:
        self.shop = shop
        self.processes = []
        self.reached, self.ready = os.pipe()
        self.go, self.release = os.pipe()

    def start(self, *options):
        command = ["--config", self.shop / "shop.toml", "--run-date", DATE, "--json", *options]
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.ready), str(self.go), *map(str, command)],
            pass_fds=(self.ready, self.go),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.processes.append(process)
        return process

    def await_all(self):
        """Return as soon as every driver is in the middle of its work."""
        for _ in self.processes:
            assert os.read(self.reached, 1) == b"r"

    def finish_all(self):
        """Let the drivers go on and return their exit codes and what they printed."""
        os.write(self.release, b"g" * len(self.processes))
        answers = [process.communicate(timeout=300) for process in self.processes]
        return [(process.returncode, *answer) for process, answer in zip(self.processes, answers, strict=True)]


@pytest.fixture
def drivers(shop):
    drivers = Drivers(shop)
    yield drivers
    for process in drivers.processes:
        process.kill()
        process.communicate()


def attempts(folder):
    return {path.name for path in folder.folder.glob("attempt=*")}


@pytest.mark.line(78)
def test_one_wins_the_other_is_told_and_the_next_run_has_nothing_to_do(session, shop, drivers):
    config = load_config(str(shop / "shop.toml"), environment={})
    earlier = purchase_gram.run(session, config, EARLIER)
    other_date = StepFolder(config.shop.work, purchase_gram.STEP, EARLIER)
    before = {path: path.stat().st_mtime_ns for path in other_date.folder.rglob("*")}
    for _ in range(2):
        drivers.start()
    drivers.await_all()
    folder = StepFolder(config.shop.work, purchase_gram.STEP, DATE)
    assert len(attempts(folder)) == 4  # two folders and their locks
    answers = drivers.finish_all()
    (won,) = [json.loads(printed) for code, printed, _ in answers if code == 0]
    (lost,) = [errors for code, _, errors in answers if code == 5]
    assert won["status"] == "done"
    assert f"purchase_gram {DATE}: attempt {won['attempt']} finished while this one worked" in lost
    assert "Traceback" not in lost
    assert attempts(folder) == {f"attempt={won['attempt']}"}
    assert purchase_gram.run(session, config, DATE).attempt == won["attempt"]
    for table, rows in (won["tables"] | {"PURCHASES": 4, "REJECTS": 0}).items():
        assert ds.dataset(folder.table_folder(table)).to_table().num_rows == rows
    assert {path: path.stat().st_mtime_ns for path in other_date.folder.rglob("*")} == before
    assert purchase_gram.run(session, config, EARLIER) == earlier


def test_what_a_killed_driver_leaves_goes_and_a_live_one_stays(session, shop, drivers):
    config = load_config(str(shop / "shop.toml"), environment={})
    staging = Path(config.shop.work) / "staging"
    killed = drivers.start()
    drivers.await_all()
    (attempt,) = Path(config.shop.work).glob("*/*/attempt=*/")
    (held,) = staging.glob("*.lock")
    held.with_suffix("").mkdir()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (attempt / "PURCHASES").exists()
    folder = StepFolder(config.shop.work, purchase_gram.STEP, DATE)
    with claim_folder(folder.attempt_folder("live")) as live:
        live.mkdir()
        commit = purchase_gram.run(session, config, DATE)
        assert attempts(folder) == {"attempt=live", "attempt=live.lock", f"attempt={commit.attempt}"}
    assert list(staging.iterdir()) == []
