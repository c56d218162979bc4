"""Pairs, models and the stock loss for `benchmarks/train.py`; the same pairs for the same number of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.config import Config
from indexer.demo.vocabulary import BRANDS, COLORS, FEATURES, KINDS, SIZES
from indexer.distill.data import QueryTables, TrainingData, assemble_data
from indexer.distill.encoders import PACKAGED_MODEL, TextEncoder, Tokens, open_model
from indexer.distill.judgements import Judgements, LabelledPairs
from indexer.distill.losses import HIGH, LOW
from indexer.distill.metrics import roc_auc
from indexer.distill.scoring import tokenise_data
from indexer.distill_config import DistillConfig
from indexer.methods import METHODS

PER_QUERY = 20
LIMITS = {"query_tokens": 32, "product_tokens": 96}
CONFIG = Config(
    distill=DistillConfig(
        **METHODS["kd-boost"],
        # One fixed set of dissimilar pairs: nothing is mined, and all of them are drawn.
        **{"mining_low": -1.0, "mining_high": 1.0, "mining_per_query": 10**6, "mining_kept_share": 0.0},
        **{"validation_share": 0.2, "test_share": 0.0, "learning_rate": 5e-5},
        **LIMITS,
    )
)
COLUMNS = ("query_1", "product_1", "query_2", "product_2", "similar_1", "similar_2", "dissimilar_1", "dissimilar_2")


@dataclass(frozen=True)
class TrainingInputs:
    """What both contenders are given."""

    data: TrainingData
    folder: Path
    config: Config = CONFIG

    def open_student(self) -> TextEncoder:
        """Open the cut student."""
        return open_model(str(self.folder / "student"), **LIMITS)

    def open_teacher(self) -> TextEncoder:
        """Open the teacher, which is not trained here: what it says is what has to be learnt."""
        teacher = open_model(PACKAGED_MODEL, **LIMITS)
        teacher.transformer.eval()
        return teacher

    def measure_auc(self, encoder: TextEncoder) -> float:
        """Return the pooled ROC-AUC on the validation pairs."""
        pairs = self.data.validation
        vectors = encoder.embed_frozen(tokenise_data(encoder, self.data)).numpy()
        scores = (vectors[pairs.query] * vectors[pairs.product + len(self.data.queries)]).sum(1)
        return float(roc_auc(scores, pairs.grade >= 2) or 0.0)

    def stock_columns(self, seed: int) -> dict[str, list[Any]]:
        """Return rows of two labelled, one similar and one dissimilar pair, every labelled pair once."""
        rng = np.random.default_rng(seed)
        data, train = self.data, self.data.train
        order = rng.permutation(len(train))
        one, two = order[0::2], order[1::2]
        similar, dissimilar = (pairs[np.arange(len(one)) % len(pairs)] for pairs in (data.similar, data.dissimilar))
        rows = {
            **{"query_1": train.query[one], "query_2": train.query[two]},
            **{"similar_1": similar[:, 0], "similar_2": similar[:, 1]},
            **{"dissimilar_1": dissimilar[:, 0], "dissimilar_2": dissimilar[:, 1]},
        }
        columns: dict[str, list[Any]] = {name: [data.queries[row] for row in found] for name, found in rows.items()}
        columns |= {
            f"product_{n}": [data.products[train.product[row]] for row in side] for n, side in ((1, one), (2, two))
        }
        labels = [[int(train.grade[a]), int(train.grade[b])] for a, b in zip(one, two, strict=True)]
        return {**{name: columns[name] for name in COLUMNS}, "label": labels}

    def stock_loss(self, step: Mapping[str, Any]) -> float:
        """Return what the stock loss says of a step, two labelled pairs a row, without dropout."""
        student, teacher, data = self.open_student(), self.open_teacher(), self.data
        texts = [*data.queries, *data.products]
        labels, grades = step["labels"], {0: 0, LOW: 2, HIGH: 3}
        halves = [labels.take(np.arange(start, len(labels), 2)) for start in (0, 1)]
        sides = [side for pairs in (*halves, step["similar"], step["dissimilar"]) for side in (pairs.left, pairs.right)]
        features = [student.model.preprocess([texts[row] for row in side]) for side in sides]
        given = torch.tensor([[grades[int(label)] for label in half.label] for half in halves]).T
        with torch.no_grad():
            return float(self.make_stock_loss(student.model.eval(), teacher.model)(features, given))

    def make_stock_loss(self, student: nn.Module, teacher: nn.Module) -> "StockLoss":
        """Return equation 7 as a loss module of sentence-transformers."""
        return StockLoss(student, teacher, self.config.distill)

    def plain_loss(
        self, encoder: TextEncoder, texts: Sequence[Tokens], step: Mapping[str, Any], teacher: Tensor
    ) -> Tensor:
        """Equation 7 pair by pair, every text of every pair encoded alone, without padding."""

        def encode(row: int) -> Tensor:
            states: Tensor = encoder.transformer(input_ids=torch.tensor([texts[row]])).last_hidden_state[0]
            return states.mean(0) / states.mean(0).norm()

        distill = self.config.distill
        soft: dict[str, list[Tensor]] = {"labels": [], "queries": []}
        hard: dict[str, list[Tensor]] = {name: [] for name in step}
        for name, pairs in step.items():
            for at in range(len(pairs)):
                left, right = int(pairs.left[at]), int(pairs.right[at])
                score = encode(left) @ encode(right)
                soft["labels" if name == "labels" else "queries"].append((teacher[left] @ teacher[right] - score) ** 2)
                label = {"similar": -1, "dissimilar": 0}.get(name)
                label = int(pairs.label[at]) if label is None else label
                below, above = min(0.0, score.item() - distill.theta_low), max(0.0, score.item() - distill.theta_high)
                # Derivatives of squared hinges: 2 * hinge * score has the gradient of hinge^2.
                push = {-1: below, 0: max(0.0, score.item()), LOW: below + above, HIGH: score.item() - 1}[label]
                hard[name].append(2 * push * score)
        means = [sum(items, torch.zeros(())) / len(items) for items in (*soft.values(), *hard.values())]
        return distill.gamma * sum(means[:2], torch.zeros(())) + (1 - distill.gamma) * sum(means[2:], torch.zeros(()))


class StockLoss(nn.Module):
    """Equation 7 with the teacher asked in every step, one pass per column as the losses of the library do it."""

    def __init__(self, student: nn.Module, teacher: nn.Module, config: DistillConfig) -> None:
        super().__init__()
        self.student, self.config, self.visited = student, config, 0
        # In a list, so that it is no part of the module that is trained.
        self._teacher = [teacher.eval()]

    def forward(self, sentence_features: Sequence[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the loss of one batch; `labels` are (rows, 2) grades."""
        features = list(sentence_features)
        own = self._score(self.student, features)
        with torch.no_grad():
            taught = self._score(self._teacher[0], features)
        self.visited += labels.numel()
        low, high, gamma = self.config.theta_low, self.config.theta_high, self.config.gamma
        score, grade = torch.cat(own[:2]), labels.T.flatten()
        band = (score - low).clamp(max=0).square() + (score - high).clamp(min=0).square()
        items = torch.where(
            grade == 3, (score - 1).square(), torch.where(grade == 2, band, score.clamp(min=0).square())
        )
        hard = items.mean() + (own[2] - low).clamp(max=0).square().mean() + own[3].clamp(min=0).square().mean()
        soft = (torch.cat(taught[:2]) - score).square().mean()
        soft = soft + (torch.cat(taught[2:]) - torch.cat(own[2:])).square().mean()
        return gamma * soft + (1 - gamma) * hard

    def _score(self, model: nn.Module, features: Sequence[dict[str, Tensor]]) -> list[Tensor]:
        vectors = [model(dict(side))["sentence_embedding"].float() for side in features]
        return [(vectors[at] * vectors[at + 1]).sum(-1) for at in range(0, len(vectors), 2)]


def write_inputs(folder: Path, pairs: int, *, layers: Sequence[int]) -> int:
    """Write the judgements, the query pairs and the cut student; returns the number of labelled training pairs."""
    open_model(PACKAGED_MODEL, **LIMITS, layers=layers).save(folder / "student")
    judgements, similar, dissimilar = make_shop(pairs)
    # The trainer leaves out what its teacher holds alike, the stock trainer would not.
    teacher = open_model(PACKAGED_MODEL, **LIMITS)
    vectors = dict(zip(judgements.queries, teacher.encode_queries(judgements.queries), strict=True))
    dissimilar = [(a, b) for a, b in dissimilar if vectors[a] @ vectors[b] < CONFIG.distill.theta_low]
    # An even number of training pairs: two stand in a row of the stock trainer.
    data = assemble_data(judgements, QueryTables(similar=similar, dissimilar=dissimilar), config=CONFIG)
    found = judgements.pairs
    if len(data.train) % 2:
        first = np.flatnonzero((found.query == data.train.query[0]) & (found.product == data.train.product[0]))
        found = found.take(np.delete(np.arange(len(found)), first))
    document = asdict(replace(judgements, pairs=found))
    document["pairs"] = {name: getattr(found, name).tolist() for name in ("query", "product", "grade", "weight")}
    document |= {"similar": similar, "dissimilar": dissimilar}
    (folder / "inputs.json").write_text(json.dumps(document))
    return len(data.train) // 2 * 2


def read_inputs(folder: Path) -> TrainingInputs:
    """Read what `write_inputs` wrote."""
    document = json.loads((folder / "inputs.json").read_text())
    arrays = {name: np.array(values) for name, values in document["pairs"].items()}
    arrays["weight"] = arrays["weight"].astype(np.float32)
    judgements = Judgements(
        queries=document["queries"],
        product_ids=document["product_ids"],
        products=document["products"],
        pairs=LabelledPairs(**arrays),
    )
    pairs = {name: [(a, b) for a, b in document[name]] for name in ("similar", "dissimilar")}
    return TrainingInputs(assemble_data(judgements, QueryTables(**pairs), config=CONFIG), folder)


def make_shop(pairs: int) -> tuple[Judgements, list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return labels by kind (high), department (low) or neither, and query pairs of one kind and of two."""
    rng = np.random.default_rng(0)
    # A fifth of the queries validates.
    wanted = round(pairs / PER_QUERY * 1.25)
    kinds = np.linspace(0, len(KINDS) - 1, min(len(KINDS), max(6, wanted // 8))).astype(np.int64)
    kind_of_query = rng.choice(kinds, wanted)
    queries = [_write_query(int(kind), rng, number) for number, kind in enumerate(kind_of_query)]
    kind_of_product = rng.choice(kinds, max(len(kinds) * 4, pairs // 4))
    products = [_write_title(int(kind), rng, number) for number, kind in enumerate(kind_of_product)]
    rows, grades = [], []
    for query, kind in enumerate(kind_of_query):
        same = np.flatnonzero(kind_of_product == kind)
        drawn = {*rng.choice(same, min(8, len(same)), replace=False).tolist()}
        drawn |= {*rng.choice(len(products), PER_QUERY - len(drawn), replace=False).tolist()}
        for product in sorted(drawn):
            other = KINDS[kind_of_product[product]]
            alike = 3 if kind_of_product[product] == kind else 2 if other.department == KINDS[kind].department else 0
            rows.append((query, product))
            grades.append(alike)
    order = sorted(range(len(queries)), key=queries.__getitem__)
    place = {row: number for number, row in enumerate(order)}
    judgements = Judgements(
        queries=[queries[row] for row in order],
        product_ids=[f"p{number}" for number in range(len(products))],
        products=products,
        pairs=LabelledPairs(
            query=np.array([place[query] for query, _ in rows]),
            product=np.array([product for _, product in rows]),
            grade=np.array(grades),
            weight=np.ones(len(rows), dtype=np.float32),
        ),
    )
    similar, dissimilar = (
        {
            tuple(sorted((queries[one], queries[rng.choice(others)])))
            for one, others in _list_partners(kind_of_query, same)
        }
        for same in (True, False)
    )
    return judgements, sorted(similar), sorted(dissimilar)


def _list_partners(kinds: NDArray[np.int64], same: bool) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield every query three times with the others of its kind, or of all other kinds."""
    for query in np.repeat(np.arange(len(kinds)), 3):
        others = np.flatnonzero((kinds == kinds[query]) == same)
        others = others[others != query]
        if len(others):
            yield int(query), others


def _write_query(kind: int, rng: np.random.Generator, number: int) -> str:
    words = [str(rng.choice(COLORS)), str(rng.choice(FEATURES)).lower(), str(rng.choice(KINDS[kind].names))]
    return " ".join([*words[int(rng.integers(0, 3)) :], f"{number:x}"])


def _write_title(kind: int, rng: np.random.Generator, number: int) -> str:
    parts = [str(rng.choice(part)) for part in (BRANDS, FEATURES, KINDS[kind].names, COLORS, SIZES)]
    details = [str(word) for word in rng.choice(FEATURES, int(rng.integers(1, 8)))]
    return f"{' '.join(parts)} with {', '.join(details)} {number:x}"
