"""spark-submit runs each job by its file's path, from a folder that is not the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark.java import find_java

pytestmark = [pytest.mark.jvm, pytest.mark.e2e]

JOBS = Path(__file__).resolve().parents[2] / "jobs"
DATE = "2026-11-20"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "purchases.csv").write_text(
        "query,product_id,purchases\nfire stick,p1,40\ntv stick,p1,30\nfire striker,p2,50\nodd,p3,60\n"
    )
    (folder / "catalogue.csv").write_text(
        "product_id,title,category_path\np1,Stick,Electronics > Streaming\np2,Striker,Camping\np3,Odd,Other\n"
    )
    (folder / "shop.toml").write_text(
        '[shop]\nwork = "work"\n[purchases]\npath = "purchases.csv"\n[catalogue]\npath = "catalogue.csv"\n'
        "[npmi]\ntau = 0.1\n[spark]\nshuffle_partitions = 2\n"
    )
    return folder


def submit(shop, name, *arguments):
    python = Path(sys.executable)
    command = [
        python.parent / "spark-submit",
        *("--master", "local[2]", "--driver-memory", "1g", "--conf", "spark.ui.enabled=false"),
        # To compile expressions takes longer than four rows.
        *("--conf", "spark.sql.codegen.wholeStage=false", "--conf", "spark.sql.codegen.factoryMode=NO_CODEGEN"),
        *(JOBS / f"{name}.py", "--config", shop / "shop.toml", "--run-date", DATE, *arguments),
    ]
    environment = os.environ | {"JAVA_HOME": str(find_java()), "PYSPARK_PYTHON": str(python)}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(part) for part in command], cwd=shop, env=environment, capture_output=True, text=True, timeout=600
    )


def test_every_job_in_order(shop):
    tables = {}
    for name in ("purchase_gram", "npmi_pairs", "taxonomy_labels", "hard_negatives", "curated_queries"):
        answer = submit(shop, name, "--json")
        assert answer.returncode == 0, answer.stderr
        document = json.loads(answer.stdout)
        assert (document["step"], document["status"]) == (name, "done")
        tables |= document["tables"]
    assert tables == {
        "PURCHASES": 4,
        "QUERY_PAIRS": 1,
        "TAXONOMY": 4,
        "PRODUCT_NODES": 3,
        "QUERY_NODES": 4,
        "QUERY_NEGATIVES": 1,
        "QUERY_VARIANTS": 0,
        "CURATED_QUERIES": 4,
    }


def test_spark_submit_passes_the_exit_code_of_a_broken_input_on(shop):
    answer = submit(shop, "purchase_gram", "--set", "purchases.path=/absent.csv")
    assert answer.returncode == 3
    # In client mode Spark hands what Python prints to either stream to its own standard output.
    printed = answer.stdout + answer.stderr
    assert "purchase_gram: /absent.csv: no such file or folder" in printed
    assert "Traceback" not in printed
