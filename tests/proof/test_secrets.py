"""No command prints or writes a credential: a few of those that tests/proof/secrets.py runs."""

import base64
from urllib.parse import quote

import pytest
from boto3.session import Session

from tests.proof.secret_commands import ENVIRONMENT, Place, other_cases, store_cases
from tests.proof.secrets import (
    find_secrets,
    judge_case,
    prepare,
    run_case,
    search_bucket,
    search_files,
    serve_errors,
    upload_release,
)

WORKING = ("query", "build", "release gc")
REFUSED = ("query", "build")
FAILING = ("query", "build", "nightly", "release verify")
OTHERS = (
    "query, user and password in an address",
    "build, signed s3 address",
    "config show, llm.url in the environment",
    "config show --set llm.key_variable",
    "config show",
    "label, key of another name",
    "query, password in the endpoint",
    "query, credentials of a profile",
    "a level of the root",
    "a key in place of its file",
    "npmi_pairs, a word too many",
)


@pytest.mark.parametrize("form", [lambda s: s, quote, lambda s: base64.b64encode(s.encode()).decode(), repr])
def test_a_secret_is_found_in_every_form(form):
    for secret in ENVIRONMENT.values():
        assert find_secrets(f"before {form(secret)} after".encode()) == [secret]
    assert find_secrets(b"nothing of the kind") == []


def test_twenty_commands_print_and_write_none(tmp_path, s3_environment, bucket):
    shop, name = prepare(tmp_path), bucket.removeprefix("s3://")
    client = Session().client("s3")
    upload_release(client, name, "live")
    with serve_errors(500) as failing, serve_errors(403) as refusing:
        moto = s3_environment["AWS_ENDPOINT_URL_S3"]
        places = (
            (Place(name="working", url=f"{bucket}/live", endpoint=moto, exit_codes=(0,)), WORKING),
            (Place(name="refusing", url=f"{bucket}/live", endpoint=refusing, exit_codes=(75,)), REFUSED),
            (Place(name="failing", url=f"{bucket}/live", endpoint=failing, exit_codes=(75,)), FAILING),
        )
        cases = [
            case
            for place, names in places
            for case in store_cases(shop, place)
            if case.name.removesuffix(f", {place.name}") in names
        ]
        cases += [case for case in other_cases(shop, failing) if case.name in OTHERS]
        assert len(cases) == 20
        for case in cases:
            assert judge_case(case, *run_case(case, tmp_path)) == []
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "given" not in path.parents}
    assert "run.json" in kept
    assert any(name.startswith("report-") for name in kept)
    assert search_files(tmp_path) == []
    assert search_bucket(client, name) == []
