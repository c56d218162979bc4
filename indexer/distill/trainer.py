"""One training loop for teacher and student: what they learn is a table of loss terms, not a class."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from indexer.distill.alignment import Alignment
from indexer.distill.batches import (
    PairSource,
    Rows,
    Step,
    count_steps,
    label_sources,
    plan_epoch,
    query_source,
    text_source,
)
from indexer.distill.checkpoints import CheckpointFolder, Position
from indexer.distill.cross_encoder import CrossEncoder
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder
from indexer.distill.evaluate import measure_scores
from indexer.distill.mining import mine_negatives
from indexer.distill.objective import Objective, combine_losses
from indexer.distill.processes import ALONE, Processes
from indexer.distill.progress import describe_position, open_bar
from indexer.distill.schedule import (
    choose_score,
    first_choice,
    measure_error,
    schedule_rate,
    seed_everything,
    should_stop,
)
from indexer.distill.scoring import Model, score_frozen, score_pairs, share_texts, tokenise_data
from indexer.distill.teachers import Teacher, collect_opinions
from indexer.distill_config import DistillConfig
from indexer.errors import GateError

FACTOR_RATE = 0.05
"""Learning rate of the logarithm of a learned factor, whatever that of the weights: a training of 60 steps can change
it fourfold."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished run can tell; the encoder itself holds the best epoch's weights."""

    history: list[dict[str, Any]]
    """One row per epoch, the first (epoch 0) before any training."""
    best_epoch: int
    best_score: float
    """The best mean of the figures that `select_by` names, which the kept epoch reaches within its error."""


class Trainer:
    """Trains one encoder; state lives in `position` and the weights, so that a checkpoint holds all of it."""

    def __init__(
        self,
        encoder: Model,
        data: TrainingData,
        objective: Objective,
        config: DistillConfig,
        *,
        name: str,
        folder: Path,
        teachers: Sequence[Teacher] = (),
        targets: Mapping[str, Sequence[Tensor]] | None = None,
        scored: Rows | None = None,
        progress: bool = True,
        bf16: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        """`targets` has unit vectors by text row for every alignment of the objective, `scored` unlabelled pairs."""
        self.encoder, self.data, self.objective, self.config = encoder, data, objective, config
        self.name, self.progress, self.bf16 = name, progress, bf16
        self.processes = processes
        self.teachers = teachers
        self.scored = np.empty((0, 2), dtype=np.int64) if scored is None else scored
        self.position = Position()
        self.texts = tokenise_data(encoder, data)
        self.dissimilar = data.dissimilar
        self.checkpoints = CheckpointFolder(folder, name)
        self.alignments = nn.ModuleDict()
        for target in objective.alignments:
            assert not isinstance(encoder, CrossEncoder)
            self.alignments[target] = Alignment((targets or {})[target], encoder.dimension, seed=config.seed)
        self.alignments.to(encoder.device)
        self.log_factors = start_factors(objective).to(encoder.device)
        modules = (encoder.transformer, self.alignments)
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": self.parameters}]
        self.rates = [config.learning_rate]
        if factors := list(self.log_factors.parameters()):
            groups.append({"params": factors, "weight_decay": 0.0})
            self.rates.append(FACTOR_RATE)
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self.text_rows = data.label_free_rows
        whole = len(data.train) if objective.has_labels else len(self.text_rows)
        self.steps_per_epoch = count_steps(whole, config.batch_size)
        self.first_choice = first_choice(objective, data, config)
        # A head or a table that is drawn at random is no start to stay near to.
        kept = objective.has_labels and isinstance(encoder, TextEncoder)
        self.start_share = config.start_share if kept else 0.0
        self.start = _copy_weights(encoder) if self.start_share else {}

    def run(self) -> TrainingResult:
        """Train from the newest checkpoint, or from the start, until the last epoch or early stopping."""
        if not self._resume():
            seed_everything(self.config.seed)
            self._finish_epoch(0, time.monotonic())
        if not self.position.finished:
            self._run_epochs()
        self.processes.wait()
        self.encoder.transformer.load_state_dict(self.checkpoints.load_best())
        self.encoder.transformer.eval()
        position = self.position
        return TrainingResult(
            history=position.history, best_epoch=position.best_epoch, best_score=round(position.best_score, 6)
        )

    def run_step(self, step: Step) -> dict[str, float]:
        """Encode each unique text of the step once, pay every term, and move the weights."""
        self.optimiser.zero_grad(set_to_none=True)
        present = {name: pairs for name, pairs in step.items() if len(pairs)}
        self.processes.seed_step(self.config.seed, self.position.epoch, self.position.step)
        rows, vectors, scores = score_pairs(self.encoder, self.texts, present, bf16=self.bf16, processes=self.processes)
        soft = self._teacher_scores(present) if self.objective.asks_scores else {}
        alignments = {name: alignment(vectors, rows) for name, alignment in self.alignments.items()}
        loss, parts = combine_losses(
            scores,
            present,
            self.objective,
            teacher_scores=soft,
            alignments=alignments,
            factors={name: log.exp() for name, log in self.log_factors.items()},
        )
        self._refuse_divergence("loss", loss)
        # With fewer texts than processes, one of them has none.
        if loss.requires_grad or self.processes.count == 1:
            torch.autograd.backward(loss)
        # An alignment's matrix has seen all texts in every process.
        self.processes.sum_gradients(self.encoder.transformer.parameters())
        # Before the weights move: a state that is saved must be one that training can go on from.
        self._refuse_divergence("gradient", nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        self.optimiser.step()
        return {"loss": loss.item(), **{f"loss_{name}": value for name, value in parts.items()}}

    def _refuse_divergence(self, name: str, value: Tensor) -> None:
        if torch.isfinite(value):
            return
        raise GateError(
            f"training of the {self.name}: the {name} is {value.item()} in epoch {self.position.epoch}, step "
            f"{self.position.step + 1}; lower distill.learning_rate; the last good checkpoint is "
            f"{self.checkpoints.describe()}"
        )

    def _run_epochs(self) -> None:
        steps, epochs = self.steps_per_epoch, self.config.epochs
        with open_bar(self.position, epochs=epochs, steps_per_epoch=steps, shown=self.progress) as bar:
            while not self.position.finished:
                bar.set_description(f"{self.name} epoch {self.position.epoch}/{epochs}")
                self._run_epoch(bar)

    def _run_epoch(self, bar: "tqdm[None]") -> None:
        position = self.position
        started = time.monotonic() - position.seconds
        plan = self._plan_epoch()
        # Where vectors are to be met, the noise of dropout is far above what is left to learn.
        self.encoder.transformer.train(self.objective.has_labels)
        examples, planned = 0, time.monotonic()
        for step in plan[position.step :]:
            self._set_learning_rate()
            position.add_losses(self.run_step(step))
            position.step += 1
            now = time.monotonic()
            position.seconds = now - started
            examples += sum(map(len, step.values()))
            bar.set_postfix_str(describe_position(position, rate=examples / (now - planned)), refresh=False)
            bar.update()
            if position.step % self.config.checkpoint_steps == 0 and position.step < len(plan):
                self._save_state()
        self._finish_epoch(position.epoch, started)

    def _plan_epoch(self) -> list[Step]:
        """Return the epoch's steps; hard negatives are mined once, when its first step is due."""
        position, terms = self.position, self.objective.active_terms(self.position.epoch)
        if "dissimilar" in terms and position.step == 0:
            mined = mine_negatives(
                self.data,
                self._embed_mined(),
                last=self.dissimilar,
                teachers=self.teachers,
                config=self.config,
                epoch=position.epoch,
            )
            self.dissimilar, position.counts = mined.pairs, mined.counts
        every: dict[str, PairSource] = {
            **label_sources(self.data, self.objective.terms),
            "similar": query_source(self.data.similar),
            "dissimilar": query_source(self.dissimilar),
            "scored": query_source(self.scored),
            "texts": text_source(self.text_rows),
        }
        return plan_epoch(
            {name: source for name, source in every.items() if name in terms},
            shares={name: term.share for name, term in terms.items()},
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=position.epoch,
            grouped=self.config.grouped_steps or bool(self.objective.lists),
        )

    def _embed_mined(self) -> Tensor:
        """Return the vectors of the queries that mining looks at by row; the other rows are 0."""
        assert not isinstance(self.encoder, CrossEncoder)
        rows = np.union1d(self.data.mining_queries, np.concatenate([self.data.dissimilar, self.dissimilar]))
        vectors = torch.zeros(len(self.data.queries), self.encoder.dimension)
        texts = [self.texts[row] for row in rows]
        vectors[torch.from_numpy(rows)] = share_texts(self.encoder.embed_frozen, texts, self.processes)
        return vectors

    def _finish_epoch(self, epoch: int, started: float) -> None:
        """Measure on the validation queries, keep the best weights, decide whether to stop, and save."""
        position = self.position
        with self._nearer_to_start():
            scores = self._validation_scores()
            row = measure_scores("validation", scores, self.data.validation, self.data.product_ids)
            if epoch >= self.first_choice and self._is_chosen(choose_score(row, self.config.select_by), scores):
                position.best_epoch = epoch
                if self.processes.is_first:
                    self.checkpoints.save_best(self.encoder.transformer.state_dict())
        position.history.append(
            {
                "epoch": epoch,
                **{name: round(mean, 6) for name, mean in position.mean_losses().items()},
                **{"auc": row.auc, "query_auc": row.query_auc, "ndcg_10": row.ndcg_10},
                **{f"factor_{name}": round(math.exp(log.item()), 6) for name, log in self.log_factors.items()},
                **{f"mined_{name}": count for name, count in position.counts.items()},
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        position.epoch, position.step, position.seconds = epoch + 1, 0, 0.0
        position.sums, position.paid, position.counts = {}, {}, {}
        position.finished = should_stop(epoch, max(position.best_epoch, self.first_choice), self.config)
        # Before the state: a run that is killed in between writes both again.
        if self.processes.is_first:
            self.checkpoints.save_metrics(position.history)
        self._save_state()

    def _is_chosen(self, score: float, scores: Any) -> bool:
        """Whether an epoch of this score is kept: it is the best so far, or as good within its standard error."""
        position, within = self.position, self.config.select_within
        if score > position.best_score:
            position.best_score = score
            if within and self.objective.has_labels:
                figures, seed = self.config.select_by, self.config.split_seed
                position.best_error = within * measure_error(scores, self.data, figures, seed=seed)
            return True
        return score >= position.best_score - position.best_error and position.best_error > 0

    @contextmanager
    def _nearer_to_start(self) -> Iterator[None]:
        """Give the encoder, for the time of the block, its weights mixed with those it started from."""
        if not self.start_share:
            yield
            return
        trained = _copy_weights(self.encoder)
        self.encoder.transformer.load_state_dict(mix_weights(trained, self.start, share=self.start_share))
        try:
            yield
        finally:
            self.encoder.transformer.load_state_dict(trained)

    def _validation_scores(self) -> Any:
        pairs = self.data.validation
        source = PairSource(left=pairs.query, right=pairs.product + len(self.data.queries))
        return score_frozen(self.encoder, self.texts, source, processes=self.processes)

    def _teacher_scores(self, step: Step) -> dict[str, Tensor]:
        rows = {name: np.stack([pairs.left, pairs.right], axis=1) for name, pairs in step.items()}
        scores = {name: torch.from_numpy(collect_opinions(self.teachers, pairs)) for name, pairs in rows.items()}
        return {name: opinions.to(self.encoder.device) for name, opinions in scores.items()}

    def _set_learning_rate(self) -> None:
        done = (self.position.epoch - 1) * self.steps_per_epoch + self.position.step
        total = self.config.epochs * self.steps_per_epoch
        factor = schedule_rate(done, total=total, warmup=round(self.config.warmup_share * total))
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _save_state(self) -> None:
        """Save all that the next step needs; of a finished run the best weights are kept, and they lie apart."""
        if not self.processes.is_first:
            return
        tensors = {
            "weights": self.encoder.transformer.state_dict(),
            "alignments": self.alignments.state_dict(),
            "log_factors": self.log_factors.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "dissimilar": torch.from_numpy(self.dissimilar),
        }
        self.checkpoints.save_state(self.position, {} if self.position.finished else tensors)

    def _resume(self) -> bool:
        found = self.checkpoints.load_state()
        if found is None:
            return False
        self.position, state = found
        if self.position.finished:
            return True
        self.encoder.transformer.load_state_dict(state["weights"])
        self.alignments.load_state_dict(state["alignments"])
        self.log_factors.load_state_dict(state["log_factors"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state.get("random_cuda") is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        self.dissimilar = state["dissimilar"].numpy()
        return True


def start_factors(objective: Objective) -> nn.ParameterDict:
    """Return the logarithm of the factor of each term of lists that learns one."""
    starts = {name: term.factor for name, term in objective.lists.items() if term.factor}
    return nn.ParameterDict({name: nn.Parameter(torch.tensor(math.log(start))) for name, start in starts.items()})


def mix_weights(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Return `share` of the start's weights and the rest of the trained ones (WiSE-FT, Wortsman et al. 2022)."""
    return {
        name: torch.lerp(tensor, start[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in trained.items()
    }


def _copy_weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.transformer.state_dict().items()}
