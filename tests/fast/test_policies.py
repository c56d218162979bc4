"""The S3 policies of docs/examples/policies allow every call that a role's commands make, and little else."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import boto3.session
import pytest

from indexer.build.release import build_release
from indexer.doctor.storage import examine_store
from indexer.errors import ObjectExistsError
from indexer.reader import open_index
from indexer.releases import changes
from indexer.releases.garbage import KeepingRule, collect_garbage, plan_garbage
from indexer.store import open_store

POLICIES = Path(__file__).parents[2] / "docs" / "examples" / "policies"
BUCKET = "arn:aws:s3:::shop-search"
ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
}
CREATES = ("PutObject", "CompleteMultipartUpload")
"""What S3 calls operations that create an object, unlike those that send a part of one."""


@dataclass(frozen=True)
class Call:
    """A request as a policy sees it."""

    operation: str
    resource: str
    keys: dict = field(default_factory=dict, hash=False)
    """Condition key -> value."""

    @property
    def action(self):
        return ACTIONS[self.operation]


def make_call(operation, key="", *, prefix=None, new=False, tls=True, bucket=BUCKET):
    keys = {"aws:SecureTransport": str(tls).lower()}
    if ACTIONS[operation] == "s3:PutObject":
        keys["s3:ObjectCreationOperation"] = str(operation in CREATES).lower()
    keys |= {"s3:if-none-match": "*"} if new else {}
    keys |= {"s3:prefix": prefix} if prefix is not None else {}
    return Call(operation, f"{bucket}/{key}" if key else bucket, keys)


def as_list(value):
    return value if isinstance(value, list) else [value]


TESTS = {
    "Null": lambda found, wanted: (found is None) == (wanted == "true"),
    "Bool": lambda found, wanted: found == wanted,
    "StringLike": lambda found, wanted: found is not None and fnmatchcase(found, wanted),
}


def applies(statement, call):
    """Tell whether a statement speaks of the call: action, resource, and all of its conditions."""
    return (
        any(fnmatchcase(call.action, action) for action in as_list(statement["Action"]))
        and any(fnmatchcase(call.resource, resource) for resource in as_list(statement["Resource"]))
        and all(
            any(TESTS[operator](call.keys.get(key), wanted) for wanted in as_list(values))
            for operator, pairs in statement.get("Condition", {}).items()
            for key, values in pairs.items()
        )
    )


def read_policy(name):
    return json.loads((POLICIES / f"{name}.json").read_text())["Statement"]


def is_allowed(role, call):
    """Tell whether S3 would answer: a role's policy allows it, and neither that nor the bucket's denies it."""
    statements = [statement for name in (role, "bucket") for statement in read_policy(name) if applies(statement, call)]
    effects = {statement["Effect"] for statement in statements}
    return effects == {"Allow"}


@pytest.fixture
def recorded(monkeypatch):
    """Role -> calls that were made while the role was set by `recorded.role`."""

    class Calls(defaultdict):
        role = ""

    calls = Calls(list)
    make_client = boto3.session.Session.client

    def record(model, params, **_):
        key = params.get("Key", "").removeprefix("/")
        calls[calls.role].append(
            make_call(model.name, key, prefix=params.get("Prefix"), new=params.get("IfNoneMatch") == "*")
        )

    def client(self, *given, **named):
        made = make_client(self, *given, **named)
        made.meta.events.register_last("before-parameter-build.s3", record)
        return made

    monkeypatch.setattr(boto3.session.Session, "client", client)
    return calls


def test_each_role_may_make_the_calls_that_its_commands_make(
    bucket, recorded, make_shop, products, encoder_directory, tmp_path
):
    url = f"{bucket}/search"
    recorded.role = "builder"
    for night, count in enumerate((100, 120, 140)):
        config = make_shop(products(count), release=url, shards=1)
        run_date = f"2026-11-{20 + night}"
        build_release(config, run_date, encoder_directory=encoder_directory, story={}, progress=False, reuse="none")
    large = tmp_path / "large"
    large.write_bytes(bytes(9 << 20))
    open_store(url).put_file("v/run/large.faiss", large)
    recorded.role = "consumer"
    index = open_index(url, cache=tmp_path / "cache")
    assert index.search("red mug", k=1)
    index.refresh()
    recorded.role = "operator"
    changes.roll_back(open_store(url), None)
    recorded.role = "gc"
    store = open_store(url)
    plan = plan_garbage(store, KeepingRule(releases=1, grace=KeepingRule().grace * 0))
    assert plan.delete
    collect_garbage(store, plan)
    made = {role: {call.operation for call in calls} for role, calls in recorded.items()}
    reads = {"ListObjectsV2", "GetObject", "HeadObject"}
    assert made == {
        "builder": {*reads, "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"},
        "consumer": reads,
        "operator": {*reads, "PutObject"},
        "gc": {*reads, "PutObject", "DeleteObject"},
    }
    for role, calls in recorded.items():
        refused = {
            (call.operation, call.resource, tuple(call.keys.items())) for call in calls if not is_allowed(role, call)
        }
        assert refused == set(), role


def test_the_doctor_may_make_its_calls(bucket, recorded):
    recorded.role = "doctor"
    assert list(examine_store(f"{bucket}/search", rounds=1))
    (calls,) = recorded.values()
    assert {call.operation for call in calls} >= {
        "PutObject",
        "GetObject",
        "DeleteObject",
        "ListObjectsV2",
        "UploadPart",
    }
    assert {call.resource for call in calls if not is_allowed("doctor", call)} == set()


OBJECT, ENTRY, OTHER = "search/v/run/products-00000.a.faiss", "search/log/00000000000000000001.json", "other/x"
FORBIDDEN = [
    ("builder", make_call("PutObject", OBJECT)),
    ("builder", make_call("PutObject", ENTRY)),
    ("builder", make_call("CompleteMultipartUpload", OBJECT)),
    ("builder", make_call("UploadPart", ENTRY)),
    ("builder", make_call("PutObject", OTHER, new=True)),
    ("builder", make_call("DeleteObject", OBJECT)),
    ("builder", make_call("DeleteObject", ENTRY)),
    ("builder", make_call("GetObject", OTHER)),
    ("builder", make_call("ListObjectsV2", prefix="other/")),
    ("builder", make_call("ListObjectsV2", prefix="")),
    ("builder", make_call("PutObject", OBJECT, new=True, tls=False)),
    ("builder", make_call("PutObject", "p.csv", new=True, bucket="arn:aws:s3:::shop-exports")),
    ("gc", make_call("DeleteObject", ENTRY)),
    ("gc", make_call("DeleteObject", OTHER)),
    ("gc", make_call("PutObject", OBJECT, new=True)),
    ("gc", make_call("PutObject", ENTRY)),
    ("doctor", make_call("PutObject", OBJECT, new=True)),
    ("doctor", make_call("DeleteObject", OBJECT)),
    ("doctor", make_call("DeleteObject", ENTRY)),
    ("doctor", make_call("GetObject", OBJECT)),
    ("operator", make_call("DeleteObject", OBJECT)),
    ("operator", make_call("PutObject", OBJECT, new=True)),
    ("operator", make_call("PutObject", ENTRY)),
    ("consumer", make_call("PutObject", OBJECT, new=True)),
    ("consumer", make_call("PutObject", ENTRY, new=True)),
    ("consumer", make_call("DeleteObject", OBJECT)),
    ("consumer", make_call("GetObject", OTHER)),
    ("consumer", make_call("GetObject", OBJECT, tls=False)),
]


@pytest.mark.parametrize(
    ("role", "call"), FORBIDDEN, ids=lambda value: value if isinstance(value, str) else value.operation
)
def test_what_a_role_may_not_do(role, call):
    assert not is_allowed(role, call)


def test_inputs_are_read_and_the_page_names_every_policy():
    exports = "arn:aws:s3:::shop-exports"
    assert is_allowed("builder", make_call("GetObject", "day/p.csv", bucket=exports))
    assert is_allowed("builder", make_call("ListObjectsV2", prefix="day/", bucket=exports))
    page = (POLICIES.parents[1] / "security.md").read_text()
    for path in POLICIES.glob("*.json"):
        json.loads(path.read_text())
        assert f"examples/policies/{path.name}" in page


def test_lifecycle_rules_touch_no_object():
    (rule,) = json.loads((POLICIES / "lifecycle.json").read_text())["Rules"]
    assert set(rule) == {"ID", "Status", "Filter", "AbortIncompleteMultipartUpload"}


def test_a_file_that_was_sent_twice_is_one_and_another_is_refused(bucket, tmp_path):
    store, path = open_store(bucket), tmp_path / "file"
    path.write_bytes(b"once")
    store.put_file("v/run/a", path)
    store.put_file("v/run/a", path)
    path.write_bytes(b"another")
    with pytest.raises(ObjectExistsError):
        store.put_file("v/run/a", path)
    large = tmp_path / "large"
    large.write_bytes(bytes(9 << 20))
    with pytest.raises(ObjectExistsError):
        store.put_file("v/run/a", large)
    assert store.get("v/run/a") == b"once"
