"""What the jobs need is named alike in the extra, the Makefile and the image."""

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_SPARK = {"pyspark", "py4j"}


def named(text):
    return {re.split("[<>=]", word)[0] for word in text.split()}


def test_the_executors_environment_holds_what_the_spark_extra_names():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extra = named(parser["options.extras_require"]["spark"])
    needed = extra - OF_SPARK | {"boto3"}  # boto3 is one of the core's own, which holds more than a job needs
    makefile, dockerfile = ((ROOT / name).read_text() for name in ("Makefile", "Dockerfile"))
    assert named(re.search(r"^JOB_NEEDS := (.*)$", makefile, re.M)[1]) == needed
    assert named(re.search(r"constraints.txt (pyspark .*)$", dockerfile, re.M)[1]) == needed | {"pyspark"}
