"""What the jobs need is named alike in the extras, the Makefile and the image."""

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_SPARK = {"pyspark", "py4j"}


def named(text):
    return {re.split("[<>=]", word)[0] for word in text.split()}


def test_the_executors_environment_holds_what_jobs_and_the_index_need():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    needed = named(extras["spark"]) - OF_SPARK | named(extras["build"]) | named(parser["options"]["install_requires"])
    # The driver signs.
    needed |= named(extras["signing"])
    makefile, dockerfile = ((ROOT / name).read_text() for name in ("Makefile", "Dockerfile"))
    assert named(re.search(r"^JOB_NEEDS := (.*)$", makefile, re.M)[1]) == needed
    assert named(re.search(r"constraints.txt (pyspark .*)$", dockerfile, re.M)[1]) == needed | {"pyspark"}
