"""No code from data: the tree is searched for everything that would run what it reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for folder in ("indexer", "jobs", "spark") for path in sorted((ROOT / folder).rglob("*.py"))]
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle", "yaml"}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"read_pickle", "to_pickle", "unsafe_load"}
ALLOWED = {
    # Spark moves results of our own between our own processes; nothing of it comes from a file or a store.
    ("jobs/index_tasks.py", "pickle"),
    # For the name of an error alone: the file is read by torch.load(weights_only=True), as looked at below.
    ("indexer/distill/checkpoints.py", "pickle"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def find_code(path: str, tree: ast.AST) -> Iterator[str]:
    """Yield what would let data run code, as `line: what`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
            for name in {name.partition(".")[0] for name in names} & FORBIDDEN_MODULES:
                if (path, name) not in ALLOWED:
                    yield f"{node.lineno}: import {name}"
        if isinstance(node, ast.Call):
            yield from find_call(node)


def find_call(node: ast.Call) -> Iterator[str]:
    options = {item.arg: ast.unparse(item.value) for item in node.keywords}
    called = ast.unparse(node.func)
    name = called.rpartition(".")[2]
    if called in FORBIDDEN_BUILTINS or name in FORBIDDEN_METHODS:
        yield f"{node.lineno}: {called}"
    if called == "torch.load" and options.get("weights_only") != "True":
        yield f"{node.lineno}: torch.load without weights_only=True"
    if called == "np.load" and options.get("allow_pickle", "False") != "False":
        yield f"{node.lineno}: np.load with allow_pickle"
    if options.get("trust_remote_code", "False") != "False":
        yield f"{node.lineno}: trust_remote_code"
    if name in ("SentenceTransformer", "from_pretrained") and node.args and "trust_remote_code" not in options:
        yield f"{node.lineno}: {called} without trust_remote_code=False"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_runs_what_it_reads(path: Path):
    assert list(find_code(name_of(path), ast.parse(path.read_text()))) == []


def test_pickle_is_named_in_checkpoints_for_its_error_alone():
    tree = ast.parse((ROOT / "indexer/distill/checkpoints.py").read_text())
    uses = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {use for use in uses if use.startswith("pickle.")} == {"pickle.UnpicklingError"}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "import a.b, joblib.externals",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "eval(text)",
        "AutoModel.from_pretrained(name)",
        "SentenceTransformer(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_each(line: str):
    assert list(find_code("x.py", ast.parse(line)))
