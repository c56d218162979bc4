"""Every piece of Python on the page about serving runs, in its order, on a release of two nights."""

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.contracts.schemas import PRODUCT_NODES
from indexer.runs import StepCommit, StepFolder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
NODES = {"P010": "cups", "P011": "mugs", "P012": "bags", "P900": "mugs"}


def write_nodes(work: Path) -> None:
    step = StepFolder(work, PRODUCT_NODES.written_by, "2026-01-07")
    folder = step.attempt_folder("one") / PRODUCT_NODES.name
    folder.mkdir(parents=True)
    columns = [list(NODES), list(NODES.values()), [1.0] * len(NODES), [1.0] * len(NODES)]
    pq.write_table(pa.table(columns, schema=PRODUCT_NODES.schema), folder / "part-0.parquet")
    step.commit(StepCommit(step=step.step, run_date="2026-01-07", attempt="one", fingerprint="one"), 1)


def test_its_code_runs(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    shutil.copytree(golden / "release_v2", tmp_path / "release")
    write_nodes(tmp_path / "work")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        exec(block, names)
    assert names["ids"] == {"P010", "P011", "P900"}
    assert "(through mug)" in capsys.readouterr().out
    assert names["index"].search("red", k=9, ids=names["in_stock"])
