"""Rows that fit to no node of the tree count against the limit of the input they came from."""

import pytest

from indexer.config_file import load_config
from indexer.errors import ContractError
from jobs import purchase_gram, taxonomy_labels

pytestmark = pytest.mark.jvm

DATE = "2026-11-20"
SHOP = {
    "purchases": "query,product_id,purchases\nsipper,p1,20\n",
    "catalogue": "product_id,title,category_path\np1,Sipper,Baby > Feeding\np2,Film,Films\np3,Stick,Films\np4,Novel,\n",
    "taxonomy": "node_id,parent_id,name\n1,,Baby\n2,1,Feeding\n3,,Films\n",
    "crosswalk": "from_node,to_node\nold,3\n",
    "query_classes": "query,node_id,score\nsipper,3,0.8\n",
}
TREE = SHOP["taxonomy"]
FIRST = "taxonomy.two_parents=first"
PATHS = 'taxonomy.columns={category_path="name"}'


@pytest.fixture(scope="module")
def work(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rejects")
    (folder / "purchases.csv").write_text(SHOP["purchases"])
    options = [f"shop.work={folder / 'work'}", f"purchases.path={folder / 'purchases.csv'}"]
    purchase_gram.run(session, load_config(options=options, environment={}), DATE)
    return folder / "work"


@pytest.mark.parametrize(
    ("table", "content", "options", "message"),
    [
        (
            "taxonomy",
            TREE,
            ['taxonomy.columns={parent_id="name"}'],
            r"taxonomy.csv: 3 of 3 .*3 parent_unknown .*raise taxonomy.max_reject_share",
        ),
        ("taxonomy", TREE + "8,77,Lost\n", [], r"taxonomy.csv: 1 of 4 .*1 parent_unknown .*'77' of '8'"),
        ("taxonomy", TREE + "2,3,Feeding\n", [FIRST], r"taxonomy.csv: 1 of 4 .*1 second_parent .*'3' of '2'"),
        ("taxonomy", TREE + "4,,\u200b\n", [PATHS], r"taxonomy.csv: 1 of 4 .*1 category_path_missing"),
        (
            "catalogue",
            SHOP["catalogue"].replace("Stick,Films", "Stick,Toys"),
            [],
            r"catalogue.csv: 1 of 3 .*1 node_unknown .*'Toys' of 'p3'.*raise catalogue",
        ),
        ("crosswalk", "from_node,to_node\nold,99\n", [], r"crosswalk.csv: 1 of 1 .*1 node_unknown .*'99' of 'old'"),
        (
            "crosswalk",
            "from_node,to_node\nold,3\nold,2\n",
            [],
            r"crosswalk.csv: 2 of 2 .*2 two_targets .*raise crosswalk.max_reject_share",
        ),
        (
            "query_classes",
            "query,node_id,score\nsipper,99,0.8\n",
            [],
            r"query_classes.csv: 1 of 1 .*1 node_unknown .*'99'.*raise query_classes",
        ),
    ],
)
@pytest.mark.line(68)
def test_too_many_of_them_stop_the_run(session, work, tmp_path, table, content, options, message):
    settings = [f"shop.work={work}"]
    for name, text in {**SHOP, table: content}.items():
        (tmp_path / f"{name}.csv").write_text(text)
        settings.append(f"{name}.path={tmp_path / name}.csv")
    with pytest.raises(ContractError, match=message):
        taxonomy_labels.run(session, load_config(options=[*settings, *options], environment={}), DATE)
