"""Which trainings a comparison asks for, and with which settings."""

from dataclasses import replace

import pytest

from indexer.config import Config
from indexer.distill.comparison_plan import find_tested, fold_config, plan_cells, read_variants
from indexer.distill.splits import hash_to_unit
from indexer.distill_config import DistillConfig
from indexer.errors import ConfigError
from indexer.methods import METHODS


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.toml"
    path.write_text("[distill]\ngamma = 0.3\nepochs = 4\n")
    return str(path)


def read(shop, *methods, options=(), sweeps=(), seeds=2):
    return read_variants(shop, options=options, methods=methods, sweeps=sweeps, seeds=seeds)


def test_a_method_goes_before_the_file_and_options_before_the_method(shop):
    direct, soft = read(shop, "direct", "kd-soft:1", options=["distill.epochs=7"])
    assert (direct.config.distill.gamma, soft.config.distill.gamma) == (0.0, 1.0)
    assert (direct.config.distill.method, direct.config.distill.epochs) == ("direct", 7)
    assert (direct.seeds, soft.seeds) == (2, 1)
    (forced,) = read(shop, "direct", options=["distill.gamma=0.2"])
    assert forced.config.distill.gamma == 0.2


def test_a_sweep_changes_one_setting(shop):
    found = read(shop, sweeps=["kd-boost:gamma=[0, 0.5]", 'kd-boost:select_by=[["auc"], ["ndcg_10"]]'])
    assert [variant.name for variant in found] == [
        "kd-boost gamma=0",
        "kd-boost gamma=0.5",
        'kd-boost select_by=["auc"]',
        'kd-boost select_by=["ndcg_10"]',
    ]
    assert [variant.swept for variant in found[:3]] == [("kd-boost gamma", 0.0), ("kd-boost gamma", 0.5), None]
    assert [variant.config.distill.gamma for variant in found] == [0.0, 0.5, 0.9, 0.9]
    assert found[3].config.distill.select_by == ("ndcg_10",)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_compared(name):
    (variant,) = read(None, name)
    assert {key: getattr(variant.config.distill, key) for key in METHODS[name]} == dict(METHODS[name])


def test_a_sweep_of_tables(shop):
    found = read(shop, sweeps=["rtsm:source_weights=[{llm = 0.25, audit = 2}, {}]"])
    assert [variant.config.distill.source_weights for variant in found] == [{"llm": 0.25, "audit": 2.0}, {}]


@pytest.mark.parametrize(
    ("methods", "sweeps", "message"),
    [
        (["direkt"], [], "expected one of default, kd-boost"),
        (["direct:many"], [], "expected NAME or NAME:SEEDS"),
        (["direct", "direct"], [], "found direct twice"),
        ([], [], "found none"),
        ([], ["kd-boost:gamma=0.5"], "such as kd-boost:gamma="),
        ([], ["gamma=[0.5]"], "such as kd-boost:gamma="),
        ([], ["kd-boost:gamma=[0.5"], "such as kd-boost:gamma="),
        ([], ["kd-boost:gamma=[" + "9" * 5000 + "]"], "such as kd-boost:gamma="),
        ([], ["kd-boost:gamma=" + "[" * 5000], "such as kd-boost:gamma="),
        ([], ["kd-boost:gamma=[2026-01-01]"], "such as kd-boost:gamma="),
        ([], ["kd-boost:gama=[0.5]"], "did you mean 'gamma'"),
        ([], ["kd-boost:split_seed=[1, 2]"], "split_seed decides which queries are held out"),
    ],
)
def test_a_mistake_is_named(shop, methods, sweeps, message):
    with pytest.raises(ConfigError, match=message):
        read(shop, *methods, sweeps=sweeps)


def test_cells_are_every_fold_of_every_seed_side_by_side_for_shared_teachers(shop):
    cells = plan_cells(read(shop, "direct", "kd-boost:1"), folds=2, tested=2)
    assert [(cell.seed, cell.fold, cell.variant) for cell in cells] == [
        (13, 0, "direct"),
        (13, 0, "kd-boost"),
        (13, 1, "direct"),
        (13, 1, "kd-boost"),
        (14, 0, "direct"),
        (14, 1, "direct"),
    ]
    split = [(cell.config.distill.test_start, cell.config.distill.test_share) for cell in cells[1:3]]
    assert split == [(0.0, 0.5), (0.5, 0.5)]
    assert {cell.config.distill.split_seed for cell in cells} == {13}


def test_what_is_not_measured_is_not_trained(shop):
    variants = read(shop, "direct:1", options=["distill.qat_epochs=3", "distill.ablations=true"])
    (cell,) = plan_cells(variants, folds=2, tested=1)
    assert (cell.config.distill.qat_epochs, cell.config.distill.ablations) == (0, False)


def test_the_tested_queries_are_those_that_the_first_folds_hold_out():
    queries, config = [f"query {number}" for number in range(400)], DistillConfig()
    some, every = (find_tested(queries, config, folds=5, tested=number) for number in (2, 5))
    # The first two folds of five are the first 0.4 of the circle of hashes.
    assert list(some) == [hash_to_unit(query, config.split_seed) < 0.4 for query in queries]
    assert every.all()


@pytest.mark.parametrize("tested", [0, 3])
def test_no_more_folds_are_tested_than_there_are(shop, tested):
    with pytest.raises(ConfigError, match=f"--test-folds {tested}: expected 1 up to the number of folds, 2"):
        plan_cells(read(shop, "direct"), folds=2, tested=tested)


@pytest.mark.parametrize(("folds", "validation"), [(1, 0.1), (0, 0.1), (2, 0.5)])
def test_folds_need_room_for_training(folds, validation):
    config = replace(Config(), distill=DistillConfig(validation_share=validation))
    with pytest.raises(ConfigError, match="--folds"):
        fold_config(config, fold=0, folds=folds, seed=1)
