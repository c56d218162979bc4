"""The commands of tests/proof/secrets.py, the secrets that they are given, and what each must end with."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = "2026-11-20-49d9754a9949"
DATE = "2026-11-20"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "CANARYKEYID4Q7Z",
    "AWS_SECRET_ACCESS_KEY": "canary/Secret+4Q7Z/key",
    "AWS_SESSION_TOKEN": "canaryToken4Q7Z+/more==",
    "OPENAI_API_KEY": "canary-model-key-4Q7Z",
    "SHOP_CHAT": "canary other model key",
}
PROFILE = {
    "aws_access_key_id": "CANARYPROFILE8W2X",
    "aws_secret_access_key": "canary/Profile+8W2X/key",
    "aws_session_token": "canaryProfileToken8W2X==",
}
ADDRESS = {"user": "CANARYURLUSER5T", "password": "canaryUrlPassword5T", "signature": "canarysignature5t5t5t5t"}
TYPED = {"key": "AKIACANARYTYPED6R6RX", "model": "sk-canarytyped6R6R6R6R6R"}
SEED = b"canary signing key of 32 bytes!!"
SIGNING = base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + SEED).decode()
"""An Ed25519 key as PKCS #8 has it."""
PEM = f"-----BEGIN PRIVATE KEY-----\n{SIGNING}\n-----END PRIVATE KEY-----\n"
SECRETS = (*ENVIRONMENT.values(), *PROFILE.values(), *ADDRESS.values(), *TYPED.values(), SIGNING, SEED.decode())
JOBS = (
    "build_index",
    "calibrate_npmi",
    "curated_queries",
    "graph_neighbours",
    "hard_negatives",
    "npmi_pairs",
    "purchase_gram",
    "taxonomy_labels",
)

LOGIN = f"{ADDRESS['user']}:{ADDRESS['password']}@"
SIGNED = f"?X-Amz-Credential={ADDRESS['user']}%2F20261120&X-Amz-Signature={ADDRESS['signature']}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command, and what it must end with."""

    name: str
    words: tuple[str, ...]
    exit_codes: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = "indexer"
    """`indexer`, or a module of `jobs`."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store that commands are sent to."""

    name: str
    url: str
    endpoint: str
    exit_codes: tuple[int, ...]


def write_shop(folder: Path, *, work: Path) -> Path:
    """Write a shop of a few products, which keeps what it writes below `work`."""
    words = ("steel mug", "red mug", "baby bottle", "green lamp", "blue shirt", "cotton bag")
    rows = [f"P{n},{words[n % 6]} {n}" for n in range(40)]
    (folder / "catalogue.csv").write_text("product_id,title\n" + "\n".join(rows) + "\n")
    (folder / "broken.csv").write_bytes(b'product_id,title\nP1,"steel\nP2,mug\n')
    (folder / "labels.csv").write_text("query,product_id,label\nmug,P1,E\nmug,P2,I\nlamp,P3,E\nlamp,P4,I\n")
    (folder / "pairs.csv").write_text("query,product_id\nmug,P1\nlamp,P2\n")
    purchases = [f"user-{n:04d}-of-the-shop,mug {n % 3},P{n},30" for n in range(12)]
    (folder / "purchases.csv").write_text("user_id,query,product_id,purchases\n" + "\n".join(purchases) + "\n")
    (folder / "signing.pem").write_text(PEM)
    shop = folder / "shop.toml"
    shop.write_text(
        f'[shop]\nwork = "{work}"\nrelease = "{work / "live"}"\n[catalogue]\npath = "catalogue.csv"\n'
        '[labels]\npath = "labels.csv"\n[pairs]\npath = "pairs.csv"\n[index]\nm = 8\nef_construction = 40\n'
        '[gates]\nmin_own_title = 0.0\n[llm]\nmodel = "m"\nretries = 0\nbackoff_seconds = 0.0\n'
    )
    return shop


def store_cases(shop: Path, place: Place) -> list[Case]:
    """Return every command that opens a store."""
    folder, url = shop.parent, place.url
    at = {"AWS_ENDPOINT_URL_S3": place.endpoint}
    fine = place.exit_codes == (0,)
    codes = place.exit_codes

    def case(name: str, *words: str, allowed: tuple[int, ...] = codes) -> Case:
        return Case(name=f"{name}, {place.name}", words=words, exit_codes=allowed, environment=at)

    build = ("--config", str(shop), "--run-date", DATE, "--set", f"shop.release={url}-built")
    encoder = ("--encoder", str(GOLDEN / "encoder_v1"))
    return [
        case("query", "query", url, "steel mug"),
        case("query as JSON", "query", url, "steel mug", "--json"),
        case("release list", "release", "list", url),
        case("release show", "release", "show", url),
        case("release diff", "release", "diff", url, RUN),
        case("release pin", "release", "pin", url, RUN),
        case("release unpin", "release", "unpin", url, RUN),
        case("release verify", "release", "verify", url),
        case("release gc", "release", "gc", url, "--yes"),
        case("release rollback", "release", "rollback", url, allowed=(2,) if fine else codes),
        case("export", "export", url, str(folder.parent / f"exported-{place.name}"), "--format", "parquet"),
        case("build", "build", *build, *encoder),
        case(
            "build, signed",
            *("build", *build[:4], *encoder, "--set", f"shop.release={url}-signed"),
            *("--set", f"shop.signing_key={folder / 'signing.pem'}"),
        ),
        # The double of S3 takes wrong checksums and secrets.
        case("doctor", "doctor", url, allowed=(6,) if fine else codes),
        case("build --dry-run", "build", *build, *encoder, "--dry-run"),
        case("nightly", "nightly", *build, "--set", "distill.epochs=1", allowed=(4,) if fine else codes),
        case(
            "evaluate",
            *("evaluate", *encoder, "--catalogue", f"{url}-in/c.csv", "--labels", str(folder / "labels.csv")),
            allowed=(3, *codes),
        ),
    ]


def other_cases(shop: Path, errors: str) -> list[Case]:
    """Return commands with secrets in addresses and configuration, and those that ask a language model."""
    given = ("--config", str(shop))
    dated = (*given, "--run-date", DATE)
    typed = {
        "user and password in an address": f"s3://{LOGIN}bucket/x",
        "key id in an address": f"s3://{TYPED['key']}@bucket/x",
        "signed address": f"https://bucket.s3.amazonaws.com/x{SIGNED}",
        "signed s3 address": f"s3://bucket/x{SIGNED}",
    }
    cases = [Case(name=f"query, {name}", words=("query", url, "mug"), exit_codes=(2,)) for name, url in typed.items()]
    cases += [
        Case(name=f"build, {name}", words=("build", *dated, "--set", f"shop.release={url}"), exit_codes=(2,))
        for name, url in typed.items()
    ]
    settings = {
        "catalogue.path": f"s3://{LOGIN}bucket/c.csv",
        "llm.url": f"http://{LOGIN}127.0.0.1:1/v1",
        "llm.key_variable": TYPED["model"],
        "distill.student": f"https://{LOGIN}hub/model",
        "shop.name": TYPED["key"],
        "shop.secret_key": TYPED["model"],
        "npmi.tau": TYPED["key"],
        "shop.signing_key": PEM,
    }
    for key, value in settings.items():
        words = ("config", "show", *given, "--set", f"{key}={value}")
        cases.append(Case(name=f"config show --set {key}", words=words, exit_codes=(2,)))
        variable = {f"INDEXER_{key.replace('.', '_').upper()}": value}
        shown = ("config", "show", "--json", *given)
        cases.append(
            Case(name=f"config show, {key} in the environment", words=shown, exit_codes=(2,), environment=variable)
        )
    secret = 'spark.conf = { "spark.hadoop.fs.s3a.secret.key" = "' + ADDRESS["password"] + '" }\n'
    spoilt = shop.with_name("spoilt.toml")
    spoilt.write_text(shop.read_text() + f'[distill]\nteachers = ["s3://{LOGIN}b/t"]\n')
    spark = shop.with_name("spark.toml")
    spark.write_text(secret)
    for path in (spoilt, spark):
        words = ("config", "show", "--config", str(path))
        cases.append(Case(name=f"config show, {path.name}", words=words, exit_codes=(2,)))
    label = ("label", *given, "--output", str(shop.parents[1] / "llm.csv"), "--set", f"llm.url={errors}/v1")
    named = ("--set", "llm.key_variable=SHOP_CHAT")
    login = {"AWS_ENDPOINT_URL_S3": f"http://{LOGIN}127.0.0.1:9"}
    proxy = {"HTTP_PROXY": f"http://{LOGIN}127.0.0.1:9", "AWS_ENDPOINT_URL_S3": "http://store.invalid"}
    profile = {"AWS_PROFILE": "shop", "AWS_ENDPOINT_URL_S3": errors}
    profile |= {name: "" for name in ENVIRONMENT if name.startswith("AWS_")}
    broken = ("--set", "catalogue.path=" + str(shop.with_name("broken.csv")), "--encoder", str(GOLDEN / "encoder_v1"))
    return [
        *cases,
        Case(name="label", words=label, exit_codes=(2, 3, 75)),
        Case(name="label, key of another name", words=(*label, *named), exit_codes=(2, 3, 75)),
        Case(name="label, nobody answers", words=(*label, "--set", "llm.url=http://127.0.0.1:9"), exit_codes=(75,)),
        Case(
            name="query, password in the endpoint",
            words=("query", "s3://b/x", "mug"),
            exit_codes=(75,),
            environment=login,
        ),
        Case(
            name="query, password of a proxy", words=("query", "s3://b/x", "mug"), exit_codes=(75,), environment=proxy
        ),
        Case(
            name="query, credentials of a profile",
            words=("query", "s3://b/x", "mug"),
            exit_codes=(75,),
            environment=profile,
        ),
        Case(name="build, broken catalogue", words=("build", *dated, *broken), exit_codes=(3,)),
        Case(name="distill", words=("distill", *dated), exit_codes=(3, 4)),
        Case(name="config show", words=("config", "show", *given), exit_codes=(0,)),
        *usage_errors(shop),
    ]


def usage_errors(shop: Path) -> list[Case]:
    """Return commands that end before they begin: of the root, of commands below it, and of every job."""
    address = f"s3://{LOGIN}b"
    words = {
        "a word too many": ("query", "release", "mug", address),
        "a level of the root": ("--log-level", address),
        "an option of the root": (f"--{address}",),
        "demo, a size": ("demo", "--size", address),
        "compare, a method": (
            *("compare", "--config", str(shop), "--run-date", DATE),
            *("--out", str(shop.parents[1] / "compared"), "--methods", TYPED["key"]),
        ),
        "a key in place of its file": ("release", "pin", str(shop.parents[1]), RUN, "--signing-key", PEM),
        "a private key for a public one": (
            *("query", str(GOLDEN / "release_v1"), "mug"),
            *("--public-key", str(shop.with_name("signing.pem"))),
        ),
    }
    cases = [Case(name=name, words=given, exit_codes=(2,)) for name, given in words.items()]
    dated = ("--run-date", DATE, address)
    return cases + [
        Case(name=f"{job}, a word too many", module=f"jobs.{job}", words=dated, exit_codes=(2,)) for job in JOBS
    ]


def job_cases(shop: Path) -> list[Case]:
    """Return Spark jobs that succeed and fail."""
    dated = ("--config", str(shop), "--run-date", DATE, "--set", "spark.master=local[1]")
    bought = ("--set", f"purchases.path={shop.with_name('purchases.csv')}", "--set", "purchases.min_users=1")
    remote = ("--set", "purchases.path=s3://missing-bucket/p.csv")
    return [
        Case(name="purchase_gram", module="jobs.purchase_gram", words=(*dated, *bought), exit_codes=(0,)),
        Case(name="purchase_gram, no bucket", module="jobs.purchase_gram", words=(*dated, *remote), exit_codes=(75,)),
    ]
