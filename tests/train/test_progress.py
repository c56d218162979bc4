"""What a training tells of itself: its figures by epoch, in a file and after a kill, and its line on the terminal."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from indexer.distill.checkpoints import CheckpointFolder, Position, replace_file
from indexer.distill.objective import teacher_objective
from indexer.distill.processes import Processes
from indexer.distill.progress import describe_position, open_bar
from indexer.distill.trainer import Trainer
from indexer.errors import IntegrityError, StoreError

pytestmark = pytest.mark.train


class KilledError(Exception):
    """Stands for the process's end."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr("indexer.distill.trainer.time", SimpleNamespace(monotonic=lambda: found.now))
    return found


class ClockedTrainer(Trainer):
    """Its steps take 2 seconds and learn nothing: the nth of an epoch has a loss of n, every third a rare one of 6."""

    clock = SimpleNamespace(now=0.0)
    steps_left = 1_000

    def run_step(self, step):
        if self.steps_left == 0:
            raise KilledError
        self.steps_left -= 1
        self.clock.now += 2.0
        number = self.position.step + 1
        return {"loss": float(number), **({"loss_rare": 6.0} if number % 3 == 0 else {})}


@pytest.fixture
def make_trainer(open_tiny, data, config, clock):
    """Return a function that makes the trainer of a folder."""

    def make(folder):
        objective = teacher_objective(config.distill)
        trainer = ClockedTrainer(
            open_tiny((0,)), data, objective, config.distill, name="model", folder=folder, progress=False
        )
        trainer.clock = clock
        return trainer

    return make


def test_a_loss_is_averaged_over_the_steps_that_paid_it(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    steps = trainer.steps_per_epoch
    assert steps >= 6
    for row in trainer.run().history[1:]:
        assert row["loss"] == (steps + 1) / 2
        assert row["loss_rare"] == 6.0
        assert row["seconds"] == 2.0 * steps


def test_a_killed_epoch_is_told_as_an_unbroken_one(make_trainer, clock, tmp_path):
    expected = make_trainer(tmp_path / "unbroken").run().history
    victim = make_trainer(tmp_path / "broken")
    # The state of step 4 stands; what the fifth step took is done anew, and the pause counts nowhere.
    victim.steps_left = 5
    with pytest.raises(KilledError):
        victim.run()
    clock.now += 1_000.0
    found = make_trainer(tmp_path / "broken").run().history
    assert found == expected
    lines = (tmp_path / "broken" / "model.metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected


def test_each_epoch_replaces_the_file_of_figures_and_the_first_process_alone_writes(
    make_trainer, tmp_path, monkeypatch
):
    trainer = make_trainer(tmp_path / "first")
    trainer.steps_left = trainer.steps_per_epoch
    with pytest.raises(KilledError):
        trainer.run()
    lines = (tmp_path / "first" / "model.metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["model.metrics.jsonl", "model.state.pt"]
    monkeypatch.setattr(Processes, "is_first", False)
    other = make_trainer(tmp_path / "second")
    other.steps_left = 0
    with pytest.raises(KilledError):
        other.run()
    assert not (tmp_path / "second").exists()


def test_figures_that_were_not_written_in_time_are_written_again(make_trainer, tmp_path, monkeypatch):
    def fail(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save_metrics", fail)
        with pytest.raises(KilledError):
            make_trainer(tmp_path).run()
    history = make_trainer(tmp_path).run().history
    assert len((tmp_path / "model.metrics.jsonl").read_text().splitlines()) == len(history) == 4


def test_the_line_has_the_losses_by_term_the_last_auc_and_the_pace():
    position = Position(epoch=2, step=2, history=[{"epoch": 0, "auc": 0.5}, {"epoch": 1, "auc": 0.91234}])
    position.add_losses({"loss": 0.5, "loss_labels": 0.25, "loss_soft": 0.3})
    position.add_losses({"loss": 0.7, "loss_labels": 0.75})
    text = "loss 0.6000 (labels 0.5000 soft 0.3000), auc 0.9123, 1,235 examples/s"
    assert describe_position(position, rate=1234.5678) == text
    position.history[-1]["auc"] = None
    assert "auc -," in describe_position(position, rate=1.0)


def test_the_bar_goes_over_all_epochs():
    with open_bar(Position(epoch=3, step=4), epochs=5, steps_per_epoch=10, shown=False) as bar:
        assert (bar.n, bar.total) == (24, 50)


@pytest.mark.parametrize("error", [ValueError, KeyError, Exception])
def test_an_error_of_another_class_or_kind_stays_what_it_is(tmp_path, error):
    def fail(path):
        raise error("os error" if error is not Exception else "no such token")

    with pytest.raises(error, match=r"os error|no such token"):
        replace_file(tmp_path / "state.pt", fail)


def test_another_error_of_a_library_stays_what_it_is(tmp_path):
    def fail(path):
        path.write_text("half")
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="CUDA error"):
        replace_file(tmp_path / "state.pt", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, SafetensorError, Exception])
def test_a_library_that_cannot_write_is_a_matter_of_storage(tmp_path, error):
    def fail(path):
        path.write_text("half")
        raise error("PytorchStreamWriter failed writing file data/1: file write failed\nException raised from ...")

    with pytest.raises(StoreError, match=r"state\.pt: cannot be written: Pytorch.*failed; check") as caught:
        replace_file(tmp_path / "state.pt", fail)
    assert caught.value.exit_code == 75
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:50]), lambda path: path.unlink()])
def test_damaged_weights_are_named(tmp_path, damage):
    folder = CheckpointFolder(tmp_path, "student")
    folder.save_best({"a": torch.zeros(100)})
    damage(tmp_path / "student.best.safetensors")
    with pytest.raises(
        IntegrityError, match=r"student\.best\.safetensors: cannot be read: .*; delete the folder to train"
    ):
        folder.load_best()
