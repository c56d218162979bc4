"""BERM against values worked by hand, plain loops, and a shop whose graph says what its words do not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from indexer.distill.berm import Behaviour, BermTeacher, gather_behaviour, train_berm, train_online
from indexer.distill.berm_graph import build_graph, find_metapaths, keep_edges
from indexer.distill.berm_model import Berm, attend, match_words, pool_kernels
from indexer.distill.teaching import open_teachers
from indexer.distill.training_run import TrainingRun
from indexer.distill_config import BermConfig, DistillConfig
from indexer.errors import ConfigError, GateError

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("count", "probability", "kept"),
    [(3, 0.5, True), (3, 0.49, False), (0, 0.5, False), (0, 0.9, True), (0, 0.89, False)],
)
def test_behaviour_lowers_what_the_transformer_must_say_of_an_edge(count, probability, kept):
    found = keep_edges(np.array([count]), np.array([probability]), bought=0.5, unbought=0.9)
    assert found.tolist() == [kept]


EDGES = np.array([(0, 3), (0, 4), (1, 3), (1, 4), (1, 5), (2, 5)])
COUNTS = np.array([5, 9, 2, 1, 1, 1])


def test_neighbours_are_the_most_bought_and_paths_avoid_the_edge_in_question():
    graph = build_graph(EDGES, COUNTS, texts=6, limit=2)
    assert graph.neighbours.tolist() == [[4, 3], [3, 4], [5, -1], [0, 1], [0, 1], [1, 2]]
    paths = find_metapaths(graph, np.array([(0, 5), (0, 3), (2, 3), (2, 4)]))
    # (0, 5): v' 4 or 3, q' 1 or 2, and 2 has neither; (0, 3): v' 4 and q' 1, for 3 and 0 are its own ends.
    assert paths.tolist() == [[[4, 1], [3, 1]], [[4, 1], [-1, -1]], [[5, 1], [-1, -1]], [[5, 1], [-1, -1]]]
    assert find_metapaths(graph, np.empty((0, 2), dtype=np.int64)).shape == (0, 0, 2)
    empty = build_graph(EDGES[:0], COUNTS[:0], texts=6, limit=2)
    assert find_metapaths(empty, EDGES).shape == (6, 0, 2)


def test_paths_are_those_of_plain_loops():
    rng = np.random.default_rng(3)
    edges = np.unique(np.stack([rng.integers(0, 12, 60), rng.integers(12, 30, 60)], axis=1), axis=0)
    graph = build_graph(edges, rng.integers(0, 4, len(edges)), texts=30, limit=4)
    near = [[int(row) for row in rows if row >= 0] for rows in graph.neighbours]
    known = {(int(q), int(v)) for q, v in edges}
    pairs = np.stack([rng.integers(0, 12, 200), rng.integers(12, 30, 200)], axis=1)
    for (query, product), found in zip(pairs.tolist(), find_metapaths(graph, pairs).tolist(), strict=True):
        expected = {
            (v, q) for v in near[query] for q in near[product] if (q, v) in known and v != product and q != query
        }
        assert {tuple(path) for path in found if path != [-1, -1]} == expected
        assert sum(path != [-1, -1] for path in found) == len(expected)


def test_pairs_of_purchases_and_labels_are_counted_once():
    pairs, count = gather_behaviour(np.array([(0, 3, 5), (0, 4, 9)]), np.array([(0, 4), (2, 5), (2, 5)]), texts=6)
    assert (pairs.tolist(), count.tolist()) == ([[0, 3], [0, 4], [2, 5]], [5, 9, 0])


def test_kernels_by_hand():
    values, mask = torch.tensor([[1.0, 0.9, 0.3]]), torch.tensor([[True, True, False]])
    found = pool_kernels(values, mask)[0]
    # mu 1: equal words alone; mu .9: (e^-.5 + 1) / 2; mu .7: (e^-4.5 + e^-2) / 2; the third word is padding.
    expected = [0.5, (math.exp(-0.5) + 1) / 2, (math.exp(-4.5) + math.exp(-2)) / 2]
    torch.testing.assert_close(found[:3], torch.tensor(expected))
    assert len(found) == 11
    assert pool_kernels(values, mask & False).abs().sum() == 0


def test_words_match_by_row_maximum_and_row_mean():
    half = math.sqrt(0.5)
    query, product = torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[1.0, 0], [half, half], [0, 1]]])
    kept = torch.tensor([[True, True]]), torch.tensor([[True, True, False]])
    # M = [[1, .7071], [0, .7071]]
    expected = torch.cat(
        [pool_kernels(torch.tensor([row]), kept[0]) for row in ([1.0, half], [(1 + half) / 2, half / 2])], dim=-1
    )
    torch.testing.assert_close(match_words(query, kept[0], product, kept[1]), expected)


def test_attention_weighs_instances_by_the_softmax_of_their_scores():
    states = torch.tensor([[[1.0, 0], [0, 1]]]).requires_grad_()
    scores = torch.tensor([[0.0, math.log(3)]])
    torch.testing.assert_close(attend(states, scores, torch.tensor([[True, True]])), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(attend(states, scores, torch.tensor([[True, False]])), torch.tensor([[1.0, 0.0]]))
    nothing = attend(states, scores, torch.tensor([[False, False]]))
    nothing.sum().backward()
    assert nothing.tolist() == [[0, 0]]
    assert torch.isfinite(states.grad).all()


def test_metapaths_by_hand():
    model = Berm(1, 1)
    with torch.no_grad():
        model.path.weight.copy_(torch.tensor([[1.0, 2, 3, 4]]))
        model.path.bias.zero_()
        model.attention.weight.copy_(torch.tensor([[0.0, 0, 1]]))
        model.attention_vector.weight.fill_(1.0)
    nodes = torch.tensor([[0.1], [0.2], [-0.2], [-0.1], [0.05]])
    paths = torch.tensor([[[1, 3], [2, 3]], [[1, 3], [-1, -1]], [[-1, -1], [-1, -1]]])
    found = model.walk_paths(nodes, nodes[[0, 0, 0]], nodes[[4, 4, 4]], paths)
    # .1 + 2 * .2 - 3 * .1 + 4 * .05 = .4, and with -.2 in place of .2 it is -.4; LeakyReLU keeps 1 % below 0.
    high = math.tanh(0.4)
    share = 1 / (1 + math.exp(-(high + 0.01 * high)))
    torch.testing.assert_close(found, torch.tensor([[high * share - high * (1 - share)], [high], [0.0]]))


CONFIG = BermConfig(width=16, epochs=8, batch_size=32, learning_rate=0.01, neighbours=4)
NOWHERE = np.empty((0, 2), dtype=np.int64)


def make_shop(queries: int = 12, products: int = 24) -> tuple[Behaviour, list[list[int]], np.ndarray, np.ndarray]:
    """Two groups that share no word across the sides: the graph alone knows who buys what; a fifth is held out."""
    rng = np.random.default_rng(1)
    texts = [[row + 1, int(rng.integers(40, 60))] for row in range(queries + products)]
    pairs = np.array([(q, queries + p) for q in range(queries) for p in range(products)])
    relevant = pairs[:, 0] % 2 == pairs[:, 1] % 2
    held = rng.random(len(pairs)) < 0.2
    known = Behaviour(
        pairs=pairs[~held],
        count=np.where(relevant, 3, 0)[~held],
        probability=np.where(relevant, 0.95, 0.05).astype(np.float32)[~held],
    )
    return known, texts, pairs[held], relevant[held]


def test_berm_orders_pairs_of_a_planted_graph_and_its_online_form_follows():
    known, texts, pairs, relevant = make_shop()
    given = {"queries": 12, "vocabulary": 60, "seed": 5, "progress": False}
    teacher, losses = train_berm(known, texts, CONFIG, **given)
    assert losses[-1] < 0.5 * losses[0]
    scores = teacher.score_pairs(pairs)
    assert scores[relevant].min() > scores[~relevant].max()
    again, _ = train_berm(known, texts, CONFIG, **given)
    np.testing.assert_array_equal(again.score_pairs(pairs), scores)
    online, losses = train_online(teacher, known.pairs, CONFIG, seed=5, progress=False)
    assert losses[-1] < losses[0]
    followed = online.score_pairs(pairs)
    assert followed[relevant].mean() > followed[~relevant].mean() + 0.5


def test_pairs_of_queries_have_no_opinion():
    known, texts, pairs, _ = make_shop()
    teacher = BermTeacher(Berm(60, 4), texts, build_graph(known.pairs, known.count, texts=36, limit=3), queries=12)
    asked = np.concatenate([np.array([(0, 1), (2, 3)]), pairs[:2]])
    assert np.isnan(teacher.score_pairs(asked)).tolist() == [True, True, False, False]
    assert teacher.score_pairs(NOWHERE).shape == (0,)


def test_a_probability_that_is_no_number_stops_the_training():
    known, texts, _, _ = make_shop()
    known.probability[3] = np.nan
    with pytest.raises(GateError, match="training of berm: the loss is nan in epoch 1"):
        train_berm(known, texts, CONFIG, queries=12, vocabulary=60, seed=5, progress=False)


@pytest.mark.parametrize("purchases", [False, True])
def test_berm_is_a_teacher_beside_the_encoder(data, config, open_tiny, tmp_path, purchases):
    first = len(data.queries)
    if purchases:
        rows = [(query, first + product, 4) for query in data.open_queries for product in range(query % 3, 60, 3)]
        data = replace(data, bought=np.array(rows))
    settings = replace(config.distill, teachers=("tiny", "berm", "berm-online"))
    run = TrainingRun(
        config=settings, data=data, folder=tmp_path, progress=False, berm=replace(CONFIG, epochs=1, width=8)
    )
    teachers = open_teachers(run, {"teacher": open_tiny()})
    assert list(teachers) == ["tiny", "berm", "berm-online"]
    pairs = np.array([(0, first), (1, first + 59), (0, 1)])
    # A second run takes the weights that the first has kept.
    again = open_teachers(replace(run, berm=replace(CONFIG, width=8, epochs=9)), {"teacher": open_tiny()})
    for name in ("berm", "berm-online"):
        scores = teachers[name].score_pairs(pairs)
        assert np.isnan(scores).tolist() == [False, False, True]
        np.testing.assert_array_equal(again[name].score_pairs(pairs), scores)
    graph = teachers["berm"].graph
    bought = data.bought if purchases else np.column_stack([data.train.query, data.train.product + first])
    assert graph.has_edges(*bought[:, :2].T).any()


def test_berm_needs_an_encoder_to_learn_from():
    with pytest.raises(ConfigError, match="`berm` learns from an encoder; name one beside it"):
        DistillConfig(teachers=("berm",))
    with pytest.raises(ConfigError, match="name one beside it"):
        DistillConfig(teachers=("scores:x.csv", "berm-online"))
