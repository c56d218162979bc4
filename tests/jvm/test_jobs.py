"""The jobs one after another on a tiny shop: tables, accounts, reruns, and what they print."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner

from indexer.config import Config
from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.errors import ContractError, GateError, PublishConflictError
from indexer.input_config import InputConfig
from indexer.runs import StepFolder
from jobs import calibrate_npmi, curated_queries, hard_negatives, npmi_pairs, purchase_gram, taxonomy_labels
from jobs.command import make_command
from jobs.steps import announce

pytestmark = pytest.mark.jvm

DATE, LATER = "2026-11-20", "2026-11-21"
JOBS = (purchase_gram, npmi_pairs, taxonomy_labels, hard_negatives, curated_queries)
PRODUCTS = {
    "p1": ("Steel sipper", "Baby > Feeding > Sippers"),
    "p2": ("Silicone sipper", "Baby > Feeding > Sippers"),
    "p3": ("Fire striker", "Camping > Fire"),
    "p4": ("Streaming stick", "Electronics > Streaming"),
    "p5": ("Novel", ""),
}
PURCHASES = [
    ("Baby Sipper", "p1", 40),
    ("baby  sipper", "p2", 25),
    ("toddler cup", "p1", 30),
    ("toddler cup", "p2", 30),
    ("fire striker", "p3", 50),
    ("fire stick", "p4", 60),
    ("novel", "p5", 90),
    ("rare", "p5", 3),
    ("\u200b", "p5", 30),
]


@pytest.fixture
def config(tmp_path):
    return write_shop(tmp_path)


def write_shop(folder):
    lines = "".join("\t".join(map(str, row)) + "\n" for row in PURCHASES)
    (folder / "purchases.tsv").write_text(f"query\tproduct_id\tpurchases\n{lines}")
    records = [
        {"id": product_id, "title": title, "category_path": path} for product_id, (title, path) in PRODUCTS.items()
    ]
    (folder / "catalogue.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "shop.toml").write_text(
        '[shop]\nwork = "work"\n'
        '[purchases]\npath = "purchases.tsv"\nmax_reject_share = 0.2\n'
        '[catalogue]\npath = "catalogue.jsonl"\ncolumns = {product_id = "id"}\n'
        "[npmi]\ntau = 0.2\n"
    )
    return load_config(str(folder / "shop.toml"), environment={})


def rows(config: Config, table: schemas.Table):
    folder = StepFolder(config.shop.work, table.written_by, DATE).table_folder(table.name)
    found = ds.dataset(folder).to_table()
    assert found.schema.names == table.schema.names
    assert found.schema.types == table.schema.types
    return found.to_pylist()


def run_all(session, config):
    return {job.STEP: job.run(session, config, DATE) for job in JOBS}


@pytest.fixture(scope="module")
def finished(session, tmp_path_factory):
    """A shop's folder after its night, and the commits."""
    folder = tmp_path_factory.mktemp("night")
    return folder, run_all(session, write_shop(folder))


@pytest.fixture
def night(finished, tmp_path):
    """The commits of the test's own shop after its night."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return finished[1]


def test_a_night_from_purchases_to_negatives(config, night):
    assert {(r["query"], r["product_id"], r["purchases"]) for r in rows(config, schemas.PURCHASES)} == {
        ("baby sipper", "p1", 40),
        ("baby sipper", "p2", 25),
        ("toddler cup", "p1", 30),
        ("toddler cup", "p2", 30),
        ("fire striker", "p3", 50),
        ("fire stick", "p4", 60),
        ("novel", "p5", 90),
    }
    (pair,) = rows(config, schemas.QUERY_PAIRS)
    assert (pair["query_a"], pair["query_b"], pair["support"]) == ("baby sipper", "toddler cup", 55)
    assert {r["node_id"] for r in rows(config, schemas.TAXONOMY)} == {
        "Baby",
        "Baby > Feeding",
        "Baby > Feeding > Sippers",
        "Camping",
        "Camping > Fire",
        "Electronics",
        "Electronics > Streaming",
    }
    assert {(r["product_id"], r["node_id"]) for r in rows(config, schemas.PRODUCT_NODES)} == {
        (product_id, path) for product_id, (_, path) in PRODUCTS.items() if path
    }
    nodes = {r["query"]: (r["node_id"], r["share"], r["confidence"]) for r in rows(config, schemas.QUERY_NODES)}
    assert nodes["fire stick"] == ("Electronics > Streaming", 1.0, pytest.approx(60 / 65))
    assert "novel" not in nodes
    (negative,) = rows(config, schemas.QUERY_NEGATIVES)
    assert (negative["query_a"], negative["query_b"]) == ("fire stick", "fire striker")
    assert {(r["query"], r["weight"], r["products"]) for r in rows(config, schemas.CURATED_QUERIES)} == {
        ("baby sipper", 65.0, 2),
        ("toddler cup", 60.0, 2),
        ("fire striker", 50.0, 1),
        ("fire stick", 60.0, 1),
        ("novel", 90.0, 1),
    }
    counts = night["purchase_gram"].counts
    assert counts["inputs"] == {"RAW_PURCHASES": {"rows_in": 9, "valid": 8, "rejected": 1, "invisible_removed": 1}}
    assert counts["filters"] == {"merged": 0, "below_min_purchases": 1}
    assert [(r["reason"], r["count"]) for r in night["purchase_gram"].rejects] == [("query_empty", 1)]
    folder = StepFolder(config.shop.work, "purchase_gram", DATE)
    stored = ds.dataset(folder.table_folder("REJECTS")).to_table().to_pylist()
    assert [(r["table"], r["reason"], r["count"]) for r in stored] == [("RAW_PURCHASES", "query_empty", 1)]
    assert list((folder.folder.parents[1] / "staging").iterdir()) == []


@pytest.mark.line(62)
def test_a_rerun_does_nothing_until_something_changes(session, config, tmp_path, night):
    assert run_all(session, config) == night
    forced = npmi_pairs.run(session, config, DATE, force=True)
    assert forced.attempt != night["npmi_pairs"].attempt
    assert forced.fingerprint == night["npmi_pairs"].fingerprint
    stricter = replace(config, npmi=replace(config.npmi, tau=0.99))
    with pytest.raises(GateError, match="npmi_pairs: QUERY_PAIRS has 0 rows"):
        npmi_pairs.run(session, stricter, DATE)
    stricter = replace(stricter, gates=replace(config.gates, tables_with_rows=()))
    changed = npmi_pairs.run(session, stricter, DATE)
    assert changed.counts["tables"] == {"QUERY_PAIRS": 0}
    # Pairs that cannot reach tau are not even scored.
    assert (changed.counts["filters"], changed.counts["figures"]["candidates"]) == ({}, 0)
    assert curated_queries.run(session, stricter, DATE) == night["curated_queries"]
    with (tmp_path / "purchases.tsv").open("a") as file:
        file.write("new\tp1\t99\n")
    assert purchase_gram.run(session, config, DATE).counts["inputs"]["RAW_PURCHASES"]["rows_in"] == 10
    assert curated_queries.run(session, config, DATE).counts["tables"]["CURATED_QUERIES"] == 6


def test_a_shops_own_tree_and_classifier(session, config, tmp_path, night):
    tree = "node_id,parent_id,name\n1,,Baby\n2,1,Feeding\n3,2,Sippers\n4,,Camping\n5,4,Fire\n6,77,Lost\n7,6,Below\n"
    (tmp_path / "tree.csv").write_text(tree)
    (tmp_path / "classes.csv").write_text("query,node_id,score\nFire  Stick,5,0.8\nfire stick,99,0.1\n")
    own = replace(
        config,
        catalogue=replace(config.catalogue, max_reject_share=0.25),
        taxonomy=replace(config.taxonomy, path=str(tmp_path / "tree.csv"), max_reject_share=0.3),
        query_classes=replace(config.query_classes, path=str(tmp_path / "classes.csv"), max_reject_share=0.5),
    )
    commit = taxonomy_labels.run(session, own, DATE)
    assert {r["node_id"] for r in rows(own, schemas.TAXONOMY)} == {"1", "2", "3", "4", "5"}
    assert {(r["table"], r["reason"], r["count"]) for r in commit.rejects} == {
        ("TAXONOMY", "parent_unknown", 2),
        ("PRODUCT_NODES", "node_unknown", 1),  # Electronics > Streaming
        ("QUERY_CLASSES", "node_unknown", 1),
    }
    assert commit.counts["inputs"]["TAXONOMY"] == {"rows_in": 7, "valid": 5, "rejected": 2}
    nodes = {(r["query"], r["node_id"], r["share"]) for r in rows(own, schemas.QUERY_NODES)}
    assert ("fire stick", "5", 0.8) in nodes
    (tmp_path / "tree.csv").write_text("node_id,parent_id,name\na,b,A\nb,a,B\n")
    with pytest.raises(ContractError, match="cycle: a -> b -> a"):
        taxonomy_labels.run(session, own, DATE)
    newest = StepFolder(own.shop.work, "taxonomy_labels", DATE)
    assert newest.newest() == commit
    attempts = {night["taxonomy_labels"].attempt, commit.attempt}
    assert {path.name for path in newest.folder.glob("attempt=*")} == {f"attempt={name}" for name in attempts}


@pytest.mark.usefixtures("night")
@pytest.mark.line(49)
def test_purchases_of_products_that_the_catalogue_lacks(session, config, tmp_path):
    lines = (tmp_path / "catalogue.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "catalogue.jsonl").write_text("".join(lines[:-1]))
    figures = taxonomy_labels.run(session, config, DATE).counts["figures"]
    assert (figures["bought_products_unknown"], figures["purchases_of_unknown_products"]) == (1, 90)
    strict = replace(config, purchases=replace(config.purchases, max_unknown_share=0.2))
    (tmp_path / "catalogue.jsonl").write_text("".join(lines[1:-1]))
    purchase_gram.run(session, strict, DATE)
    with pytest.raises(ContractError, match=r"160 of 325 purchases are of products that the catalogue lacks.* 'p1'"):
        taxonomy_labels.run(session, strict, DATE)


@pytest.mark.usefixtures("night")
def test_contradicting_rows_of_a_product_are_rejected_and_counted(session, config, tmp_path):
    with (tmp_path / "catalogue.jsonl").open("a") as file:
        for product_id, path, day in (("p3", "Camping", ""), ("p4", "Toys", "2026-01-01"), ("p5", "", "")):
            record = {"id": product_id, "title": "Again", "category_path": path, "updated_at": day}
            file.write(json.dumps(record) + "\n")
    with pytest.raises(ContractError, match=r"3 of 8 rows rejected.*3 duplicate_id .* of 'p3'"):
        taxonomy_labels.run(session, config, DATE)
    lenient = replace(config, catalogue=replace(config.catalogue, max_reject_share=0.5))
    commit = taxonomy_labels.run(session, lenient, DATE)
    assert commit.counts["inputs"]["CATALOGUE"] == {"rows_in": 8, "valid": 5, "rejected": 3}
    assert commit.counts["filters"]["merged_products"] == 1
    nodes = {row["product_id"]: row["node_id"] for row in rows(lenient, schemas.PRODUCT_NODES)}
    assert (nodes["p4"], "p3" in nodes) == ("Toys", False)


@pytest.mark.usefixtures("night")
@pytest.mark.line(39)
def test_a_night_that_lost_its_categories_is_refused_and_leaves_nothing(session, config, tmp_path):
    purchase_gram.run(session, config, LATER)
    records = [{"id": name, "title": "t", "category_path": "All"} for name in PRODUCTS]
    (tmp_path / "catalogue.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(GateError, match=f"nodes with products fell from 3 on {DATE} to 1") as caught:
        taxonomy_labels.run(session, config, LATER)
    assert caught.value.exit_code == 4
    assert list(StepFolder(config.shop.work, "taxonomy_labels", LATER).folder.glob("attempt=*")) == []
    accepted = replace(config, gates=replace(config.gates, max_shrink=1))
    assert taxonomy_labels.run(session, accepted, LATER).counts["figures"]["nodes_with_products"] == 1


def with_purchases(config, tmp_path, text, **options):
    path = tmp_path / "other.csv"
    path.write_text(text)
    return replace(config, purchases=replace(config.purchases, path=str(path), **options))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,product_id,purchases\na,p,19\na,q,3\n", "bought 20 times, the most is 19"),
        ("query,product_id\na,p\n", "the most is 1; .*default_purchases"),
        ("query,product_id,purchases\na,p,\n", "1 purchases_missing"),
        ("query,product_id,purchases\na,p,-2\n", "1 purchases_range"),
        ("query,product_id,purchases\na,p,2000000000\n", "1 purchases_range"),
        ("query,product_id,purchases\n\u200b,p,20\n", "1 query_empty"),
    ],
)
@pytest.mark.line(51)
def test_purchases_that_cannot_be_used(session, config, tmp_path, text, message):
    with pytest.raises(ContractError, match=message):
        purchase_gram.run(session, with_purchases(config, tmp_path, text), DATE)
    assert list(StepFolder(config.shop.work, "purchase_gram", DATE).folder.glob("*")) == []


@pytest.mark.line(56)
def test_a_sum_beyond_64_bits_is_refused(session, config, tmp_path):
    huge = 10**17 * 9
    text = "query,product_id,purchases\n" + "".join(f"a{n % 2},p,{huge}\n" for n in range(24))
    shop = with_purchases(config, tmp_path, text, max_purchases=10**18)
    with pytest.raises(ContractError, match="does not fit into 64 bits"):
        purchase_gram.run(session, shop, DATE)


def test_a_table_that_is_committed_anew_under_a_step_is_noticed(session, config, tmp_path, monkeypatch):
    text = "query,product_id,purchases\na,p,30\nb,p,30\n"
    shop = with_purchases(config, tmp_path, text)
    purchase_gram.run(session, shop, DATE)
    build_table = npmi_pairs.build_table

    def meddle(*given):
        account = build_table(*given)
        purchase_gram.run(session, with_purchases(config, tmp_path, text.replace("30", "40")), DATE)
        return account

    monkeypatch.setattr(npmi_pairs, "build_table", meddle)
    with pytest.raises(PublishConflictError, match=r"npmi_pairs: .*committed anew.*PURCHASES.*run it again"):
        npmi_pairs.run(session, shop, DATE)
    assert StepFolder(config.shop.work, "npmi_pairs", DATE).newest() is None


def test_a_step_before_its_input_names_the_step_to_run(session, config):
    with pytest.raises(ContractError, match="run the step purchase_gram for this date first"):
        npmi_pairs.run(session, config, DATE)


@pytest.fixture
def command(session, tmp_path, config, monkeypatch):
    """Call a job's command in this process, in the session of the tests."""
    monkeypatch.setattr(type(session), "stop", lambda self: None)

    def call(job, *arguments):
        arguments = ["--config", str(tmp_path / "shop.toml"), *arguments]
        return CliRunner().invoke(make_command(job.STEP, job.run), arguments)

    return call


def test_the_command_prints_an_account(command):
    grams = ("--set", "gram.sides=['query', 'product']")
    built = command(purchase_gram, "--run-date", DATE, *grams)
    assert built.exit_code == 0, built.output
    lines = [line.split() for line in built.stdout.splitlines()]
    assert lines[0][:3] == ["purchase_gram", f"{DATE}:", "done"]
    for line in (
        "RAW_PURCHASES rows in 9",
        "RAW_PURCHASES rejected 1",
        "rejected RAW_PURCHASES query_empty 1",
        "filtered below min purchases 1",
        "PURCHASES rows out 7",
        "QUERY_GRAM rows out 1",
    ):
        assert line.split() in lines
    again = command(purchase_gram, "--run-date", DATE, "--json", *grams)
    document = json.loads(again.stdout)
    assert document["status"] == "skipped"
    assert document["tables"] == {"PURCHASES": 7, "QUERY_GRAM": 1, "PRODUCT_GRAM": 1}


@pytest.mark.usefixtures("night")
def test_a_calibration_prints_its_deciles_and_pairs_and_draws_a_page(command, config):
    built = command(calibrate_npmi, "--run-date", DATE)
    assert built.exit_code == 0, built.output
    assert "tau 0.2: the pairs above it reach an agreement of 0.95; tau is 0.2 now" in built.stdout
    lines = [line.split() for line in built.stdout.splitlines()]
    (row,) = rows(config, schemas.NPMI_CALIBRATION)
    assert (row["decile"], row["pairs"], row["sampled"], row["labelled"], row["agreeing"]) == (1, 1, 1, 1, 1)
    assert (row["agreement"], row["agreement_above"], row["npmi_above"]) == (1.0, 1.0, 0.2)
    assert row["mean_npmi"] == pytest.approx(row["npmi_up_to"], abs=1e-4)
    assert ["baby", "sipper", "toddler", "cup", str(round(row["mean_npmi"], 4)), "1", "yes"] in lines
    page = Path(json.loads(command(calibrate_npmi, "--run-date", DATE, "--json").stdout)["figures"]["page"]).read_text()
    assert "<td>baby sipper</td><td>toddler cup</td>" in page
    assert "<svg" in page
    assert "<script" not in page
    other = command(calibrate_npmi, "--run-date", DATE, "--set", "npmi.calibration_tau=0.9")
    assert (other.exit_code, "lower npmi.calibration_tau" in other.stderr) == (3, True)
    literal = ["--set", "npmi.variant=literal", "--set", "npmi.force_literal=true"]
    assert command(calibrate_npmi, "--run-date", DATE, *literal).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--run-date", "today"], 2, "expected YYYY-MM-DD"),
        (["--run-date", DATE, "--set", "npmi.tua=1"], 2, "did you mean 'tau'"),
        (["--run-date", DATE, "--set", "purchases.path=absent.csv"], 3, "no such file or folder"),
        ([], 2, "--run-date"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(command, arguments, code, message):
    result = command(purchase_gram, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_text_of_the_shop_cannot_steer_the_terminal(command, tmp_path):
    (tmp_path / "purchases.tsv").write_text("query\t\x1b]0;title\x07\nsipper\tp1\n")
    result = command(purchase_gram, "--run-date", DATE)
    assert result.exit_code == 3
    assert "\\x1b]0;title\\x07" in result.stderr
    assert result.stderr.rstrip("\n").isprintable()


def test_an_announcement_cannot_steer_it_either(capsys):
    announce("the column q\t\x1b]0;t\x07 is not read")
    assert capsys.readouterr().err == "the column q\\t\\x1b]0;t\\x07 is not read\n"


def test_an_input_of_another_name_is_the_same_input(session, config, tmp_path, night):
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "purchases.tsv").rename(moved / "purchases.tsv")
    assert isinstance(config.purchases, InputConfig)
    other = replace(config, purchases=replace(config.purchases, path=str(moved / "purchases.tsv")))
    assert purchase_gram.run(session, other, DATE) == night["purchase_gram"]


@pytest.mark.parametrize("created", [True, False])
def test_a_failure_at_the_commit_removes_only_what_is_not_committed(session, config, monkeypatch, created):
    commit = StepFolder.commit

    def break_off(folder, document, number):
        if created:
            commit(folder, document, number)
        raise KeyboardInterrupt

    monkeypatch.setattr(StepFolder, "commit", break_off)
    with pytest.raises(KeyboardInterrupt):
        purchase_gram.run(session, config, DATE)
    assert bool(list(StepFolder(config.shop.work, "purchase_gram", DATE).folder.glob("attempt=*"))) == created
    if created:
        assert len(rows(config, schemas.PURCHASES)) == 7
