"""Train BERM on the transformer's probabilities and BERM-O on BERM's (arXiv 2210.01701; a reconstruction)."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from indexer.distill.augmentation import sample_pairs
from indexer.distill.baseline_losses import soft_label_loss
from indexer.distill.berm_graph import RelevanceGraph, Rows, build_graph, find_metapaths, keep_edges, merge_pairs
from indexer.distill.berm_model import Berm, GraphBatch, OnlineBerm, make_batch
from indexer.distill.checkpoints import CheckpointFolder
from indexer.distill.data import TrainingData
from indexer.distill.encoders import Tokens
from indexer.distill.metrics import POSITIVE_GRADE
from indexer.distill.teachers import VectorTeacher, mean_opinion
from indexer.distill_config import BERM, BERM_ONLINE, BermConfig
from indexer.errors import GateError

SCORED_ROWS = 1_024
SAMPLED_QUERIES = 20_000
"""Queries of which pairs are sampled for the encoders to score, beside the bought and the labelled ones."""

Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """(query, product) pairs of text rows with what shoppers did and what the transformer says."""

    pairs: Rows
    """(pairs, 2), each once."""
    count: NDArray[np.int64]
    """Purchases; 0 for pairs without behaviour."""
    probability: Scores
    """The transformer's, from 0 to 1."""


class BermTeacher:
    """BERM with the texts and the graph it was trained on; scores are probabilities, as equation 1's targets are."""

    def __init__(self, model: nn.Module, texts: Sequence[Tokens], graph: RelevanceGraph, *, queries: int) -> None:
        self.model, self.texts, self.graph, self.queries = model, texts, graph, queries

    def score_pairs(self, pairs: Rows) -> Scores:
        """Return the probability of each (query, product) pair of text rows, NaN for pairs of two queries."""
        scores = np.full(len(pairs), np.nan, dtype=np.float32)
        known = np.flatnonzero((pairs[:, 0] < self.queries) & (pairs[:, 1] >= self.queries))
        self.model.eval()
        with torch.no_grad():
            for start in range(0, len(known), SCORED_ROWS):
                rows = known[start : start + SCORED_ROWS]
                scores[rows] = torch.sigmoid(self.model(self.collect(pairs[rows]))).numpy()
        return scores

    def collect(self, pairs: Rows) -> GraphBatch:
        """Return a batch of these pairs with their metapaths; BERM-O looks at none."""
        online = isinstance(self.model, OnlineBerm)
        paths = np.empty((len(pairs), 0, 2), dtype=np.int64) if online else find_metapaths(self.graph, pairs)
        return make_batch(self.texts, pairs, paths)


def cut_words(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[Tokens]:
    """Return the word pieces of texts without the marks that frame them, cut to the limit."""
    found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [item.ids[:limit] for item in found]


def train_berm(
    behaviour: Behaviour,
    texts: Sequence[Tokens],
    config: BermConfig,
    *,
    queries: int,
    vocabulary: int,
    seed: int,
    checkpoints: CheckpointFolder | None = None,
    progress: bool = True,
) -> tuple[BermTeacher, list[float]]:
    """Build the graph, learn the transformer's probability of every pair, and return the model and loss per epoch.

    `texts` are the words of all text rows, the first `queries` of them of queries; equal seeds give equal weights.
    Weights found in `checkpoints` are taken without training.
    """
    kept = keep_edges(behaviour.count, behaviour.probability, bought=config.min_bought, unbought=config.min_unbought)
    graph = build_graph(behaviour.pairs[kept], behaviour.count[kept], texts=len(texts), limit=config.neighbours)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Berm(vocabulary, config.width)
    teacher = BermTeacher(model, texts, graph, queries=queries)
    if checkpoints and checkpoints.has_best():
        model.load_state_dict(checkpoints.load_best())
        return teacher, []
    losses = _fit(teacher, behaviour.pairs, behaviour.probability, config, name=BERM, seed=seed, progress=progress)
    if checkpoints:
        checkpoints.save_best(model.state_dict())
    return teacher, losses


def train_online(
    teacher: BermTeacher,
    pairs: Rows,
    config: BermConfig,
    *,
    seed: int,
    checkpoints: CheckpointFolder | None = None,
    progress: bool = True,
) -> tuple[BermTeacher, list[float]]:
    """Distil BERM into BERM-O, which starts from its word vectors; returns the model and the loss per epoch."""
    assert isinstance(teacher.model, Berm)
    online = BermTeacher(
        OnlineBerm(teacher.model.words.weight.detach()), teacher.texts, teacher.graph, queries=teacher.queries
    )
    if checkpoints and checkpoints.has_best():
        online.model.load_state_dict(checkpoints.load_best())
        return online, []
    losses = _fit(online, pairs, teacher.score_pairs(pairs), config, name=BERM_ONLINE, seed=seed, progress=progress)
    if checkpoints:
        checkpoints.save_best(online.model.state_dict())
    return online, losses


def distil_berm(
    data: TrainingData,
    teachers: Sequence[VectorTeacher],
    tokenizer: Tokenizer,
    config: BermConfig,
    *,
    names: Collection[str],
    folder: Path,
    seed: int,
    progress: bool = True,
) -> dict[str, BermTeacher]:
    """Train BERM on what the encoders think of bought, labelled and sampled pairs, and BERM-O where `names` has it.

    Weights are kept in `folder`. Without purchases the graph is made of the relevant training labels, counted by grade.
    """
    texts = cut_words(tokenizer, data.queries, config.query_tokens)
    texts += cut_words(tokenizer, [*data.products, *data.unlabelled], config.product_tokens)
    labelled = np.stack([data.train.query, data.train.product + len(data.queries)], axis=1)
    liked = data.train.grade >= POSITIVE_GRADE
    bought = data.bought if len(data.bought) else np.column_stack([labelled[liked], data.train.grade[liked]])
    some = np.random.default_rng(seed).permutation(data.open_queries)[:SAMPLED_QUERIES]
    sampled = sample_pairs(teachers[0].vectors, np.sort(some), np.arange(len(data.queries), len(texts)), seed=seed)
    pairs, count = gather_behaviour(bought, np.concatenate([labelled, sampled]), texts=len(texts))
    probability = mean_opinion(teachers, pairs).clip(0, 1)
    behaviour = Behaviour(pairs=pairs, count=count, probability=probability)
    teacher, _ = train_berm(
        behaviour,
        texts,
        config,
        queries=len(data.queries),
        vocabulary=tokenizer.get_vocab_size(),
        seed=seed,
        checkpoints=CheckpointFolder(folder, BERM),
        progress=progress,
    )
    found = {BERM: teacher}
    if BERM_ONLINE in names:
        checkpoints = CheckpointFolder(folder, BERM_ONLINE)
        found[BERM_ONLINE], _ = train_online(
            teacher, pairs, config, seed=seed, checkpoints=checkpoints, progress=progress
        )
    return {name: found[name] for name in names}


def gather_behaviour(bought: Rows, others: Rows, *, texts: int) -> tuple[Rows, NDArray[np.int64]]:
    """Return all pairs once with their purchases; `bought` is (pairs, 3) with the count, nobody bought the others."""
    every = np.concatenate([bought[:, :2], others])
    return merge_pairs(every, np.concatenate([bought[:, 2], np.zeros(len(others), dtype=np.int64)]), texts=texts)


def _fit(
    learner: BermTeacher,
    pairs: Rows,
    target: Scores,
    config: BermConfig,
    *,
    name: str,
    seed: int,
    progress: bool,
) -> list[float]:
    """Minimise -[t log y + (1 - t) log(1 - y)] over all pairs; returns the mean loss of each epoch."""
    optimiser = torch.optim.AdamW(learner.model.parameters(), lr=config.learning_rate, fused=True)
    losses = []
    for epoch in tqdm(range(1, config.epochs + 1), desc=name, unit="epoch", disable=None if progress else True):
        learner.model.train()
        total = 0.0
        for rows in _draw_batches(len(pairs), config.batch_size, seed=seed, epoch=epoch):
            optimiser.zero_grad(set_to_none=True)
            logits = learner.model(learner.collect(pairs[rows]))
            loss = soft_label_loss(logits, torch.from_numpy(target[rows]))
            if not torch.isfinite(loss):
                raise GateError(
                    f"training of {name}: the loss is {loss.item()} in epoch {epoch}; lower berm.learning_rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(rows)
        losses.append(total / max(1, len(pairs)))
    learner.model.eval()
    return losses


def _draw_batches(size: int, batch_size: int, *, seed: int, epoch: int) -> Iterator[Rows]:
    order = np.random.default_rng((seed, epoch)).permutation(size)
    for start in range(0, size, batch_size):
        yield order[start : start + batch_size]
