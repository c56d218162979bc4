"""Every command with credentials in environment, profile, address and configuration: none may be printed or written.

Commands run at debug level against a working store, one that refuses, one that repeats in its error what it was sent,
one that is not there, and a bucket that does not exist. What they print and every file and object they leave is
searched for each secret as it is, in base64 and quoted as in an address.

    python -m tests.proof.secrets --full
"""

import argparse
import base64
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from tests.proof.secret_commands import (
    ENVIRONMENT,
    GOLDEN,
    LOGIN,
    PROFILE,
    SECRETS,
    SIGNED,
    Case,
    Place,
    job_cases,
    other_cases,
    store_cases,
    write_shop,
)


def find_secrets(data: bytes, secrets: Sequence[str] = SECRETS) -> list[str]:
    """Return the secrets that stand in the bytes in any form."""
    found = []
    for secret in secrets:
        coded = base64.b64encode(secret.encode()).rstrip(b"=")
        escaped = json.dumps(secret)[1:-1]
        forms = {secret.encode(), quote(secret).encode(), quote(secret, safe="").encode(), coded, escaped.encode()}
        if any(form in data for form in forms):
            found.append(secret)
    return found


class Echo(BaseHTTPRequestHandler):
    """Answers every request with an error that repeats all that was sent."""

    status = 500

    def answer(self) -> None:
        sent = "".join(f"{name}: {value} " for name, value in self.headers.items())
        known = " ".join(ENVIRONMENT.values())
        text = f"{self.path} {sent} {known} s3://{LOGIN}bucket/x{SIGNED}".replace("&", "&amp;").replace("<", "")
        code = {403: "AccessDenied", 500: "InternalError"}[self.status]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve_errors(status: int) -> Iterator[str]:
    """Start a server that answers with the status and repeats what it was sent."""
    handler = type("Answer", (Echo,), {"status": status})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def make_environment(folder: Path, case: Case) -> dict[str, str]:
    """Return the environment of a command: all canaries, and the case's own variables; empty ones are taken out."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH", "JAVA_HOME") if name in os.environ
    }
    given = {
        **kept,
        **ENVIRONMENT,
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "given" / "credentials"),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "INDEXER_LOG_LEVEL": "debug",
        "PYTHONFAULTHANDLER": "1",
        **case.environment,
    }
    return {name: value for name, value in given.items() if value}


def run_case(case: Case, folder: Path) -> tuple[int, bytes]:
    """Run a command in a process of its own, `indexer` with --debug and --unsafe-debug; return exit code and output."""
    flags = ["--debug", "--unsafe-debug"] if case.module == "indexer" else ["--unsafe-debug"]
    program = "from indexer.cli import main; main()" if case.module == "indexer" else ""
    start = ["-c", program] if program else ["-m", case.module]
    done = subprocess.run(
        [sys.executable, *start, *flags, *case.words],
        env=make_environment(folder, case),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout


def search_files(folder: Path) -> list[tuple[str, str]]:
    """Return (file, secret) for what commands left; what was given to them lies in `given`."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "given" not in path.relative_to(folder).parts[:1]:
            found += [(str(path), secret) for secret in find_secrets(path.read_bytes())]
    return found


def prepare(folder: Path) -> Path:
    """Write what the commands are given: the profile, a shop."""
    given = folder / "given"
    given.mkdir(parents=True)
    lines = "".join(f"{name} = {value}\n" for name, value in PROFILE.items())
    (given / "credentials").write_text(f"[shop]\n{lines}")
    return write_shop(given, work=folder / "work")


def upload_release(client: object, bucket: str, prefix: str) -> None:
    """Put the golden release of one night into the bucket."""
    root = GOLDEN / "release_v1"
    for path in root.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(root).as_posix()}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())  # type: ignore[attr-defined]


def search_bucket(client: object, bucket: str) -> list[tuple[str, str]]:
    """Return (key, secret) for the objects of the bucket."""
    found = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):  # type: ignore[attr-defined]
        for item in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()  # type: ignore[attr-defined]
            found += [(item["Key"], secret) for secret in find_secrets(body)]
    return found


def judge_case(case: Case, code: int, output: bytes) -> list[str]:
    """Return what is wrong with a command's end: another exit code, or a secret."""
    wrong = [f"{case.name}: {secret!r} was printed" for secret in find_secrets(output)]
    if code not in case.exit_codes:
        wrong.append(f"{case.name}: expected exit code {case.exit_codes}, found {code}: {output[-600:]!r}")
    return wrong


def main() -> int:
    """Run all commands and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the Spark jobs, too")
    options = parser.parse_args()
    from boto3.session import Session
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = time.monotonic()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    folder = Path(tempfile.mkdtemp(prefix="secrets-"))
    shop = prepare(folder)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = Session(**keys).client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="shop")
    upload_release(client, "shop", "live")
    with serve_errors(500) as failing, serve_errors(403) as refusing:
        places = [
            Place(name="working", url="s3://shop/live", endpoint=f"http://{host}:{port}", exit_codes=(0,)),
            Place(name="no bucket", url="s3://none/live", endpoint=f"http://{host}:{port}", exit_codes=(75,)),
            Place(name="refusing", url="s3://shop/live", endpoint=refusing, exit_codes=(75,)),
            Place(name="failing", url="s3://shop/live", endpoint=failing, exit_codes=(75,)),
        ]
        cases = [case for place in places for case in store_cases(shop, place)] + other_cases(shop, failing)
        cases += job_cases(shop) if options.full else []
        wrong = [problem for case in cases for problem in judge_case(case, *run_case(case, folder))]
    wrong += [f"{place}: {secret!r} was written" for place, secret in search_files(folder)]
    wrong += [f"{key}: {secret!r} was published" for key, secret in search_bucket(client, "shop")]
    server.stop()
    shutil.rmtree(folder)
    for problem in wrong:
        sys.stdout.write(f"  {problem}\n")
    seconds = time.monotonic() - started
    sys.stdout.write(f"secrets | {len(cases)} commands | {len(wrong)} hits | {seconds:.0f} s\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
