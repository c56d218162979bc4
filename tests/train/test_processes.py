"""Several processes that train together end where one ends."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from indexer.config_file import load_config
from indexer.distill.processes import Processes, count_launched
from indexer.distill.step import join_distill, run_distill
from indexer.distill.training_run import open_start
from indexer.errors import ConfigError
from indexer.runs import StepFolder

pytestmark = pytest.mark.train

DATE = "2026-03-01"
NOUNS = ("cup", "hat", "bag", "pen")


@pytest.fixture
def shop(tiny_model, tmp_path):
    """Sixteen queries, forty products, a model without dropout, and a method that has every kind of term."""
    draw, model = random.Random(3), tmp_path / "model"
    shutil.copytree(tiny_model, model)
    settings = json.loads((model / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(settings))
    products = {f"p{number:02d}": f"{draw.choice(('red', 'big'))}{NOUNS[number % 4]}" for number in range(40)}
    lines = [json.dumps({"product_id": key, "title": title}) for key, title in products.items()]
    (tmp_path / "catalogue.jsonl").write_text("\n".join(lines))
    rows = [
        f"{first}{noun}\t{key}\t{'E' if title[-3:] == noun else draw.choice('CI')}"
        for first in ("red", "blue", "old", "soft")
        for noun in NOUNS
        for key, title in products.items()
        if draw.random() < 0.5
    ]
    (tmp_path / "labels.tsv").write_text("\n".join(["query\tproduct_id\tlabel", *rows]))
    settings = {
        "teachers": [str(model), f"cross:{model}", "berm"],
        "student": str(model),
        "student_layers": [0, 2],
        **{
            "alpha_teacher": 0.5,
            "alpha_start": 0.5,
            "teacher_alpha_start": 0.5,
            "alpha_cosent": 0.1,
            "scored_share": 1.0,
        },
        **{"epochs": 2, "switch_epoch": 1, "recovery_epochs": 2, "recovery_batch_size": 16, "checkpoint_steps": 2},
        **{"batch_size": 32, "learning_rate": 1e-4, "recovery_learning_rate": 1e-4, "bf16": False, "threads": 1},
        **{"validation_share": 0.25, "test_share": 0.25, "query_tokens": 8, "product_tokens": 16},
    }
    tables = '[catalogue]\npath = "catalogue.jsonl"\n[labels]\npath = "labels.tsv"\n[gates]\nmin_parity_int8 = 0.9\n'
    distill = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    (tmp_path / "shop.toml").write_text(f"{tables}[distill]\n{distill}\n")
    return tmp_path / "shop.toml"


def launch(shop, *options):
    """Run `indexer distill` in two processes on the CPU; `accelerate launch` starts no more than one there."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = ["--no-python", str(Path(sys.executable).parent / "indexer"), "distill"]
    command = [*torchrun, *program, "--config", str(shop), "--run-date", DATE, "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_two_processes_end_where_one_ends(shop):
    done = launch(shop)
    assert done.returncode == 0, done.stderr
    # The first alone tells what came of it.
    assert json.loads(done.stdout)["student_best_epoch"] >= 1
    config = load_config(str(shop), environment={})
    folder = StepFolder(config.shop.work, "distill", DATE)
    together = folder.newest()
    # What is finished is not trained again: a process that joins would wait for the others in vain.
    join_distill(config, DATE, processes=Processes(count=2, number=1))
    alone = run_distill(config, DATE, force=True, progress=False)
    assert alone.attempt != together.attempt
    for role in ("teacher", "cross", "recovered", "student"):
        history = [
            [{key: row[key] for key in row if key != "seconds"} for row in commit.counts[f"{role}_history"]]
            for commit in (together, alone)
        ]
        for one, other in zip(*history, strict=True):
            assert one == pytest.approx(other, abs=2e-3), role
    files = [folder.attempt_folder(commit.attempt) / "student" / "model.safetensors" for commit in (together, alone)]
    one, other = (torch.cat([tensor.flatten() for _, tensor in sorted(load_file(file).items())]) for file in files)
    cut = open_start(config.distill).transformer.state_dict()
    start = torch.cat([tensor.flatten() for _, tensor in sorted(cut.items())])
    assert (one - other).norm() < 1e-3 * (other - start).norm()


@pytest.mark.parametrize(("text", "count"), [(None, 1), ("", 1), ("1", 1), ("2", 2)])
def test_the_launcher_says_how_many_there_are(monkeypatch, text, count):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if text is not None:
        monkeypatch.setenv("WORLD_SIZE", text)
    assert count_launched() == count


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(ConfigError, match="WORLD_SIZE: expected the number of processes, found"):
        count_launched()
