"""Training a student by equation 7: this trainer against the stock SentenceTransformerTrainer with its teacher online.

Both do the same objective (labels, similar and dissimilar query pairs, 50/25/25 of a step, soft scores of one teacher)
on the same generated pairs, on the CPU, with the same start, precision, threads, batch, schedule and epochs. Each
contender runs in a process of its own, in turns, once per seed. The clock of this trainer has everything but loading
the models: tokenising, the teacher's pass, validation after each epoch, checkpoints. That of the stock trainer stands
still while it is validated, and it writes none.

Beside the time of all epochs stands the time until the AUC that both reach: the lower of their last ones.

The run fails unless the two losses of one step agree, its gradient equals that of a plain loop over single texts
(cosine 0.9999), every labelled pair was visited once per epoch, and the last AUC agrees within --tolerance.

    python benchmarks/train.py
    python benchmarks/train.py --pairs 20000 --epochs 10 --seeds 3 --precision bf16
    python benchmarks/train.py --pairs 320 --epochs 1 --seeds 1 --tolerance 1
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import print_machine
from benchmarks.processes import run_watched
from benchmarks.train_inputs import TrainingInputs, read_inputs, write_inputs

OURS, STOCK = "this trainer", "stock trainer"
LAYERS = (0, 3, 5)
BATCH = 512
MIN_COSINE = 0.9999


def run_ours(inputs: TrainingInputs, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train as `indexer distill` trains the student; returns seconds, and the AUC after each epoch."""
    from indexer.distill.teachers import VectorTeacher

    student, teacher = inputs.open_student(), inputs.open_teacher()
    started = time.monotonic()
    trainer = make_trainer(inputs, options, folder, student, VectorTeacher(embed(teacher, inputs)))
    visited = count_visits(trainer)
    result = trainer.run()
    seconds = time.monotonic() - started
    curve, clock = [], seconds - sum(row["seconds"] for row in result.history)
    for row in result.history:
        clock += row["seconds"]
        curve.append((round(clock, 1), row["auc"]))
    return {"seconds": seconds, "visited": sum(visited), "curve": curve[1:]}


def make_trainer(inputs: TrainingInputs, options: argparse.Namespace, folder: Path, student: Any, teacher: Any) -> Any:
    """Return the project's trainer with settings under which all epochs run on the same pairs."""
    from indexer.distill.objective import student_objective
    from indexer.distill.trainer import Trainer

    config = replace(
        inputs.config.distill, seed=options.seed, epochs=options.epochs, patience=options.epochs, batch_size=BATCH
    )
    return Trainer(
        student,
        inputs.data,
        student_objective(config),
        config,
        name="student",
        folder=folder,
        teachers=(teacher,),
        progress=False,
        bf16=options.precision == "bf16",
    )


def count_visits(trainer: Any) -> list[int]:
    """Return a list that gets the number of labelled pairs of every step."""
    visited: list[int] = []
    run_step = trainer.run_step

    def counted(step: Any) -> Any:
        visited.append(len(step["labels"]))
        return run_step(step)

    trainer.run_step = counted
    return visited


def embed(encoder: Any, inputs: TrainingInputs) -> Any:
    """Return the vectors of all texts."""
    from indexer.distill.scoring import tokenise_data

    return encoder.embed_frozen(tokenise_data(encoder, inputs.data))


def run_stock(inputs: TrainingInputs, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train by SentenceTransformerTrainer with a loss module that asks the teacher in every step."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from transformers import TrainerCallback

    student, teacher = inputs.open_student(), inputs.open_teacher()
    for encoder in (student, teacher):
        encoder.model.max_seq_length = inputs.config.distill.product_tokens
    loss = inputs.make_stock_loss(student.model, teacher.model)
    curve: list[tuple[float, float]] = []
    paused = started = 0.0

    class Validation(TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            nonlocal paused
            stopped = time.monotonic()
            curve.append((round(stopped - started - paused, 1), inputs.measure_auc(student)))
            paused += time.monotonic() - stopped

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=BATCH // 2,
        learning_rate=inputs.config.distill.learning_rate,
        warmup_steps=inputs.config.distill.warmup_share,
        max_grad_norm=inputs.config.distill.max_grad_norm,
        weight_decay=0.01,
        bf16=options.precision == "bf16",
        use_cpu=True,
        seed=options.seed,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=student.model,
        args=arguments,
        train_dataset=Dataset.from_dict(inputs.stock_columns(options.seed)),
        loss=loss,
        callbacks=[Validation()],
    )
    started = time.monotonic()
    trainer.train()
    return {"seconds": time.monotonic() - started - paused, "visited": loss.visited, "curve": curve}


CONTENDERS = {OURS: run_ours, STOCK: run_stock}


def check_gradient(inputs: TrainingInputs, options: argparse.Namespace, folder: Path) -> float:
    """Return the cosine of one step's gradient with that of a plain loop; ends the run below MIN_COSINE."""
    import numpy as np
    import torch

    from indexer.distill.batches import label_source, query_source
    from indexer.distill.teachers import VectorTeacher

    fast, plain, teacher = inputs.open_student(), inputs.open_student(), inputs.open_teacher()
    vectors = embed(teacher, inputs)
    calm = argparse.Namespace(**{**vars(options), "precision": "fp32"})
    trainer = make_trainer(inputs, calm, folder, fast, VectorTeacher(vectors))
    some = np.arange(16)
    step = {
        "labels": label_source(inputs.data).take(some),
        "similar": query_source(inputs.data.similar).take(some[:8] % len(inputs.data.similar)),
        "dissimilar": query_source(inputs.data.dissimilar).take(some[:8] % len(inputs.data.dissimilar)),
    }
    for encoder in (fast, plain):
        encoder.transformer.eval()
    own, stock = trainer.run_step(step)["loss"], inputs.stock_loss(step)
    if abs(own - stock) > 1e-5:
        raise SystemExit(f"loss of one step: {own:.7f}, and {stock:.7f} by the stock loss: these are two objectives")
    inputs.plain_loss(plain, trainer.texts, step, vectors).backward()
    sides = [
        torch.cat([p.grad.flatten() for p in encoder.transformer.parameters() if p.grad is not None])
        for encoder in (fast, plain)
    ]
    cosine = torch.nn.functional.cosine_similarity(*(side.double() for side in sides), dim=0).item()
    if not cosine >= MIN_COSINE:
        raise SystemExit(f"gradient of one step: cosine {cosine:.6f} with a plain loop, expected {MIN_COSINE}")
    return cosine


def run_contender(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train once and return the contender's figures."""
    import torch

    torch.set_num_threads(options.threads)
    inputs = read_inputs(options.folder)
    with tempfile.TemporaryDirectory() as folder:
        if name == "gradient":
            return {"cosine": check_gradient(inputs, options, Path(folder))}
        return CONTENDERS[name](inputs, options, Path(folder))


def measure(name: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run a contender in a process of its own; adds the peak memory."""
    given = {"folder": options.folder, "epochs": options.epochs, "threads": options.threads, "seed": seed}
    given["precision"] = options.precision
    command = [sys.executable, __file__, "--contender", name]
    output, peaks = run_watched([*command, *(f"--{key}={value}" for key, value in given.items())])
    return {**json.loads(output.splitlines()[-1]), **peaks}


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8_192, help="labelled training pairs, about")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tolerance", type=float, default=0.002, help="largest difference of the last AUC in a seed")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(run_contender(options.contender, options)))
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print_machine("sentence-transformers", "transformers", "accelerate", "torch", "numpy")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    labels = write_inputs(options.folder, options.pairs, layers=LAYERS)
    cosine = measure("gradient", options, seed=1)["cosine"]
    print(
        f"{labels} labelled pairs, {options.epochs} epochs, batch {BATCH}, {options.precision}, "
        f"{options.threads} threads; gradient of one step against a plain loop: cosine {cosine:.6f}"
    )
    print(
        f"{'seed':>4} {'contender':14} {'seconds':>8} {'pairs/s':>8} {'ratio':>6} {'to AUC':>7} {'GiB':>5}  "
        "seconds and AUC by epoch"
    )
    ratios, reached, apart = [], [], []
    for seed in range(1, options.seeds + 1):
        order = list(CONTENDERS)[:: 1 if seed % 2 else -1]
        runs = {name: measure(name, options, seed) for name in order}
        finals = {name: run["curve"][-1][1] for name, run in runs.items()}
        ratios.append(runs[STOCK]["seconds"] / runs[OURS]["seconds"])
        times = {name: find_time(run["curve"], min(finals.values())) for name, run in runs.items()}
        reached.append(times[STOCK] / times[OURS])
        apart.append(finals[OURS] - finals[STOCK])
        for name, run in runs.items():
            if run["visited"] != labels * options.epochs:
                raise SystemExit(f"{name}: visited {run['visited']} pairs, expected {labels * options.epochs}")
            ratio = runs[STOCK]["seconds"] / run["seconds"]
            curve = " ".join(f"{seconds:.0f}:{auc:.4f}" for seconds, auc in run["curve"])
            print(
                f"{seed:4} {name:14} {run['seconds']:8.1f} {labels * options.epochs / run['seconds']:8.0f} "
                f"{ratio:6.2f} {times[name]:7.1f} {run['python'] / 2**30:5.1f}  {curve}",
                flush=True,
            )
    print(
        f"ratio {describe_ratios(ratios)}; to the common AUC {describe_ratios(reached)}; "
        f"last AUC apart {', '.join(f'{difference:+.4f}' for difference in apart)}"
    )
    if max(map(abs, apart)) > options.tolerance:
        raise SystemExit(f"the last AUC differs by {max(apart, key=abs):+.4f}, more than {options.tolerance}")


def find_time(curve: Sequence[Sequence[float]], auc: float) -> float:
    """Return the seconds after which a curve of (seconds, AUC) first reached the AUC."""
    return next(seconds for seconds, reached in curve if reached >= auc)


def describe_ratios(ratios: Sequence[float]) -> str:
    """Return the median, the least and the largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
