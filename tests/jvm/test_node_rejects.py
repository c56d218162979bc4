"""Rows that fit to no node of the tree count against the limit of the input they came from."""

import pytest

from indexer.config_file import load_config
from indexer.errors import ContractError
from jobs import purchase_gram, taxonomy_labels

pytestmark = pytest.mark.jvm

DATE = "2026-11-20"
TREE = "node_id,parent_id,name\n1,,Baby\n2,1,Feeding\n3,,Films\n"
CATALOGUE = "product_id,title,category_path\np1,Sipper,Baby > Feeding\np2,Film,Films\np3,Stick,{}\np4,Novel,\n"


@pytest.mark.parametrize(
    ("tree", "path", "node", "mapped", "message"),
    [
        (TREE, "Films", "3", "name", r"tree.csv: 3 of 3 .*3 parent_unknown .*raise taxonomy.max_reject_share"),
        (TREE + "8,77,Lost\n", "Films", "3", "parent_id", r"tree.csv: 1 of 4 .*1 parent_unknown .*'77' of '8'"),
        (TREE, "Toys", "3", "parent_id", r"catalogue.csv: 1 of 3 .*1 node_unknown .*'Toys' of 'p3'.*raise catalogue"),
        (TREE, "Films", "99", "parent_id", r"classes.csv: 1 of 1 .*1 node_unknown .*'99'.*raise query_classes"),
    ],
)
def test_too_many_of_them_stop_the_run(session, tmp_path, tree, path, node, mapped, message):
    contents = {
        "purchases": "query,product_id,purchases\nsipper,p1,20\n",
        "catalogue": CATALOGUE.format(path),
        "tree": tree,
        "classes": f"query,node_id,score\nsipper,{node},0.8\n",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.csv").write_text(content)
    (tmp_path / "shop.toml").write_text(
        '[shop]\nwork = "work"\n[purchases]\npath = "purchases.csv"\n[catalogue]\npath = "catalogue.csv"\n'
        f'[taxonomy]\npath = "tree.csv"\ncolumns = {{parent_id = "{mapped}"}}\n'
        '[query_classes]\npath = "classes.csv"\n'
    )
    config = load_config(str(tmp_path / "shop.toml"), environment={})
    purchase_gram.run(session, config, DATE)
    with pytest.raises(ContractError, match=message):
        taxonomy_labels.run(session, config, DATE)
