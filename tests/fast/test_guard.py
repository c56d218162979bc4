"""A release is tried in a child first: whatever takes the child down leaves its parent and the old release alone."""

import hashlib
import json
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from indexer.build.release import build_release
from indexer.canaries import parse_canaries
from indexer.config import Config
from indexer.errors import ConfigError, IntegrityError, ManifestError, StoreError
from indexer.guard import ALONE, PACKAGE_ROOT, PASSED_ON, ChildLimits, try_release
from indexer.hnsw import build_index
from indexer.index_config import IndexConfig
from indexer.log import log_key, read_manifest, require_live
from indexer.reader import open_index
from indexer.store import LocalStore


def test_nights_answer_their_own_canaries(
    make_shop: Callable[..., Config], encoder_directory: Path, products: Callable[[int], Sequence[Any]]
):
    """Three nights with deltas and dead rows, of which the later measure some shards alone."""
    for night, changed in ((20, ()), (21, (3, 50, 51)), (22, (3, 9, 70))):
        rows = [
            (name, f"{title} again" if number in changed else title, brand)
            for number, (name, title, brand) in enumerate(products(300))
            if number != night
        ]
        config = make_shop(rows, shards=4)
        build_release(config, f"2026-11-{night}", encoder_directory=encoder_directory, story={}, progress=False)
        open_index(config.shop.release, guard="always")
    (canaries,) = Path(config.shop.release).glob("v/2026-11-22-*/canaries.*.json")
    (document,) = json.loads(canaries.read_bytes())["collections"]
    assert len(document["queries"]) == 8
    # Two kept shards in turn, and two deltas.
    assert len(document["shards"]) == 4


@pytest.mark.parametrize("ef_search", [0, 1_048_577])
def test_canaries_look_at_no_more_candidates_than_an_index_file_may(golden: Path, ef_search: int):
    document = json.loads(max((golden / "release_v3").glob("v/*/canaries.*.json")).read_bytes())
    document["collections"][0]["ef_search"] = ef_search
    with pytest.raises(ManifestError) as caught:
        parse_canaries(json.dumps(document).encode(), "c")
    assert str(caught.value) == (
        f"c.collections[0].ef_search: expected a whole number from 1 to 1048576, found {ef_search}"
    )


class TestHostileReleases:
    """Releases whose every hash is right: what the hashes do not show, the child does."""

    @pytest.fixture
    def release(self, golden: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(golden / "release_v3", tmp_path / "release"))

    def try_it(self, release: Path, limits: ChildLimits | None = None) -> None:
        store = LocalStore(release)
        manifest = read_manifest(store, require_live(store))
        files = {item.key: store.local_path(item.key) for item in manifest.downloads}
        try_release(manifest, files, place="release", limits=limits)

    def test_a_wrong_answer_is_refused_and_the_old_release_kept(self, release: Path):
        newest = (release / log_key(2)).rename(release / "held")
        index = open_index(str(release))
        before = index.search("red mug", k=3)

        def swap(data: bytes) -> bytes:
            document = json.loads(data)
            ids = document["collections"][0]["queries"][0]["ids"]
            ids[0], ids[3] = ids[3], ids[0]
            ids[4] = "P000"
            return json.dumps(document).encode()

        newest.rename(release / log_key(2))
        replace_object(release, "canaries", swap)
        with pytest.raises(IntegrityError, match=r"products: canary '.*': (expected|did not expect) P") as caught:
            index.refresh()
        assert caught.value.exit_code == 6
        assert (index.release.sequence, index.search("red mug", k=3)) == (1, before)
        assert open_index(str(release), guard="never").release.sequence == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda canary: canary["ids"].pop() and canary["scores"].pop(), "expected 9 hits, found 10"),
            (lambda canary: canary["scores"].__setitem__(0, 0.5), "expected a score of 0.500000, found"),
            (lambda canary: canary.__setitem__("query", "steel desk hose"), "the encoder is not the one of the index"),
            (lambda canary: canary["vector"].pop(), "expected vectors of 32|numbers"),
            (lambda canary: canary["vector"].__setitem__(0, 1e9), "vector: expected numbers from -2 to 2"),
        ],
    )
    def test_each_part_of_a_canary_is_looked_at(self, release: Path, change: Callable[[Any], Any], message: str):
        def edit(data: bytes) -> bytes:
            document = json.loads(data)
            document["collections"][0]["queries"] = document["collections"][0]["queries"][:1]
            change(document["collections"][0]["queries"][0])
            return json.dumps(document).encode()

        replace_object(release, "canaries", edit)
        with pytest.raises(IntegrityError, match=message):
            self.try_it(release)

    def test_a_stale_index_under_the_same_number_is_refused(self, release: Path):
        """The rows of another index in the same place: every count is right, the answers are not."""

        def reverse(data: bytes) -> bytes:
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
            vectors = index.reconstruct_n(0, index.ntotal)[::-1].copy()
            return bytes(faiss.serialize_index(build_index(vectors, IndexConfig(m=8, ef_construction=40))).tobytes())

        replace_object(release, "products-00000", reverse)
        with pytest.raises(IntegrityError, match="canary"):
            self.try_it(release)

    def test_ids_that_stand_twice_are_refused(self, release: Path):
        replace_object(release, "products-00000", lambda data: data[:5] + data[:5] + data[10:], kind="ids")
        with pytest.raises(IntegrityError, match=r"products-00000\..*: id b'P...' stands twice in a shard"):
            self.try_it(release)

    def test_too_much_memory_ends_the_child_alone(self, release: Path):
        def grow(model: Any) -> None:
            size = numpy_helper.from_array(np.array([1 << 20, 1 << 12], np.int64), "size")
            model.graph.initializer.append(size)
            model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["huge"]))
            model.graph.output.append(helper.make_tensor_value_info("huge", 1, None))

        replace_encoder(release, grow)
        with pytest.raises(IntegrityError, match="encoder"):
            self.try_it(release)

    def test_a_model_without_end_is_given_up(self, release: Path, monkeypatch: pytest.MonkeyPatch):
        def loop(model: Any) -> None:
            count = numpy_helper.from_array(np.array(1 << 50, np.int64), "count")
            named = {
                name: helper.make_tensor_value_info(name, kind, [])
                for name, kind in (("step", 7), ("go", 9), ("old", 9), ("go_on", 9), ("new", 9))
            }
            nodes = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Not", ["old"], ["new"])]
            body = helper.make_graph(
                nodes, "body", [named["step"], named["go"], named["old"]], [named["go_on"], named["new"]]
            )
            yes = numpy_helper.from_array(np.array(True), "yes")
            model.graph.initializer.extend([count, yes])
            model.graph.node.insert(0, helper.make_node("Loop", ["count", "yes", "yes"], ["end"], body=body))
            model.graph.output.append(helper.make_tensor_value_info("end", 9, []))

        replace_encoder(release, loop)
        limits = ChildLimits(memory_bytes=1 << 30, address_bytes=8 << 30, seconds=4)
        # However busy this machine is, it is the processor time that ends it.
        monkeypatch.setattr("indexer.guard.WAIT_TIMES", 60)
        with pytest.raises(IntegrityError, match=r"the child process .* it took more than 4 s of processor time"):
            self.try_it(release, limits)

    def test_a_child_that_crashes_takes_nobody_along(self, release: Path, replace_child: Callable[[str], None]):
        replace_child(
            "import os\n"
            "from indexer import canaries, guard_child\n"
            "canaries.check_shard = lambda *_: os.abort()\n"
            "guard_child.main()\n"
        )
        message = r"products-00000\..*\.faiss: the child process .* did not survive: it ended with signal 6"
        with pytest.raises(IntegrityError, match=message):
            self.try_it(release)

    @pytest.mark.parametrize(
        ("sent", "started"),
        [("SIGKILL", True), ("SIGKILL", False), ("SIGTERM", True), ("SIGINT", True), ("SIGHUP", True)],
    )
    def test_a_child_that_is_ended_from_outside_says_nothing_about_the_release(
        self, release: Path, replace_child: Callable[[str], None], sent: str, started: bool
    ):
        """As by the kernel where memory is short."""
        replace_child(
            "import os, signal\n"
            "from indexer.guard_child import tell\n"
            f"if {started}: tell(started=True)\n"
            f"signal.signal(signal.{sent}, signal.SIG_DFL) if {sent != 'SIGKILL'} else None\n"
            f"os.kill(os.getpid(), signal.{sent})\n"
        )
        with pytest.raises(StoreError) as caught:
            self.try_it(release)
        number = int(signal.Signals[sent])
        assert (str(caught.value), caught.value.exit_code) == (
            f"guard: the child process that opens the release was ended from outside, by signal {number}, "
            "as where memory is short or the service is stopped; try again, with more memory",
            75,
        )

    @pytest.mark.parametrize("where", ["shard_file.read_lines", "encoder._read_file"])
    def test_what_the_system_refuses_says_nothing_about_the_release(
        self, release: Path, replace_child: Callable[[str], None], where: str
    ):
        replace_child(
            "import resource\n"
            "from indexer import encoder, guard_child, shard_file\n"
            f"read = {where}\n"
            "def refuse(*words, **options):\n"
            "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
            "    return read(*words, **options)\n"
            f"{where} = refuse\n"
            "guard_child.main()\n"
        )
        with pytest.raises(StoreError, match=r"guard: .*[Tt]oo many open files.*ulimit -n") as caught:
            self.try_it(release)
        assert caught.value.exit_code == 75

    def test_threads_that_the_machine_would_start_do_not_count(self, release: Path, monkeypatch: pytest.MonkeyPatch):
        """A tokenizer's threads, of which there is one for each core, each with a stack of its own."""
        monkeypatch.setattr("indexer.guard.PASSED_ON", (*PASSED_ON, "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"))
        monkeypatch.setenv("RAYON_NUM_THREADS", "256")
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
        self.try_it(release)

    def test_a_machine_that_is_too_slow_says_nothing_about_the_release(
        self, release: Path, monkeypatch: pytest.MonkeyPatch, replace_child: Callable[[str], None]
    ):
        monkeypatch.setattr("indexer.guard.WAIT_TIMES", 1)
        limits = ChildLimits(memory_bytes=1 << 30, address_bytes=8 << 30, seconds=2)
        replace_child(
            "import signal\nfrom indexer.guard_child import tell\ntell(started=True)\nwhile True: signal.pause()\n"
        )
        with pytest.raises(StoreError, match=r"did not end within 2 s; .* try again") as caught:
            self.try_it(release, limits)
        assert caught.value.exit_code == 75

    @pytest.mark.parametrize(
        ("executable", "message"),
        [
            ("", "there is no Python interpreter"),
            ("/absent", "/absent cannot be started"),
            ("/bin/false", r"could not start with /bin/false: it ended with exit code 1; .*guard='never'"),
            ("/bin/echo", r"could not start with /bin/echo: it ended with exit code 0; "),
        ],
    )
    def test_no_interpreter_is_said(
        self, release: Path, monkeypatch: pytest.MonkeyPatch, executable: str, message: str
    ):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(ConfigError, match=message):
            self.try_it(release)

    def test_an_interpreter_without_what_is_needed_is_no_damage(
        self, release: Path, replace_child: Callable[[str], None]
    ):
        replace_child("import a_library_that_is_not_there\n")
        with pytest.raises(ConfigError, match=r"could not start with .*No module named 'a_library_that_is_not_there'"):
            self.try_it(release)

    def test_a_checkout_that_is_not_installed_will_do(self, release: Path, monkeypatch: pytest.MonkeyPatch):
        others = [path for path in sys.path if path and Path(path).resolve() != PACKAGE_ROOT]
        for paths in (["", *others], others):
            monkeypatch.setattr(sys, "path", paths)
            self.try_it(release)


@pytest.fixture
def replace_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a program in the child's place."""

    def replace(program: str) -> None:
        (tmp_path / "spy.py").write_text(program)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr("indexer.guard.CHILD", "spy")

    return replace


def test_the_child_has_no_credentials_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, replace_child: Callable[[str], None]
):
    """Its environment and limits, told by a program in its place."""
    replace_child(
        "import json, os, resource, sys\n"
        "from indexer.guard import ChildLimits\n"
        "order = json.load(sys.stdin)\n"
        "ChildLimits(**order['limits']).apply()\n"
        "names = ['DATA', 'AS', 'FSIZE', 'CORE']\n"
        "limits = {name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[0] for name in names}\n"
        "limits['files'] = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "found = {'environment': dict(os.environ), 'limits': limits, 'cwd': os.getcwd()}\n"
        "print(json.dumps({'started': True}))\n"
        "print(json.dumps({'refused': json.dumps(found)}))\n"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not tell")
    monkeypatch.setenv("INDEXER_SHOP_RELEASE", "elsewhere")
    store = LocalStore(Path(__file__).parents[1] / "golden" / "release_v3")
    manifest = read_manifest(store, require_live(store))
    with pytest.raises(IntegrityError) as caught:
        try_release(manifest, {}, place="release")
    found = json.loads(str(caught.value))
    assert set(found["environment"]) <= {*PASSED_ON, *ALONE, "PYTHONPATH", "LC_CTYPE"}
    assert found["cwd"] == "/"
    encoder = sum(item.bytes for item in manifest.encoder.objects)
    rest = sum(item.bytes for item in manifest.downloads) - encoder
    assert found["limits"]["DATA"] == (512 << 20) + 2 * rest + 4 * encoder
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert found["limits"]["files"] == [hard, hard]
    assert (found["limits"]["FSIZE"], found["limits"]["CORE"]) == (0, 0)
    assert ChildLimits.of(manifest).seconds == 30


@pytest.mark.parametrize(("hard", "soft"), [(20, 19), (1, 1), (100, 30)])
def test_a_limit_of_the_service_on_the_processor_is_met_before_it_kills(
    golden: Path, replace_child: Callable[[str], None], hard: int, soft: int
):
    replace_child(
        "import json, resource, sys\n"
        "from indexer.guard import ChildLimits\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({hard}, {hard}))\n"
        "ChildLimits(memory_bytes=1 << 30, address_bytes=8 << 30, seconds=30).apply()\n"
        "print(json.dumps({'started': True}))\n"
        "print(json.dumps({'refused': json.dumps(resource.getrlimit(resource.RLIMIT_CPU))}))\n"
    )
    store = LocalStore(golden / "release_v3")
    with pytest.raises(IntegrityError) as caught:
        try_release(read_manifest(store, require_live(store)), {}, place="release")
    assert json.loads(str(caught.value)) == [soft, hard]


def test_when_a_release_is_tried_first(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    release = Path(shutil.copytree(golden / "release_v3", tmp_path / "release"))
    newest = (release / log_key(2)).rename(release / "held")
    tried: list[str] = []
    monkeypatch.setattr("indexer.reader.try_release", lambda manifest, *_, **__: tried.append(manifest.run_date))
    indexes = {guard: open_index(str(release), guard=guard) for guard in ("always", "refresh", "never")}
    assert tried == ["2026-11-20"]
    newest.rename(release / log_key(2))
    for index in indexes.values():
        assert index.refresh()
    assert tried == ["2026-11-20", "2026-11-21", "2026-11-21"]
    with pytest.raises(ConfigError, match="guard: expected one of always, refresh, never, found 'no'"):
        open_index(str(release), guard="no")  # type: ignore[arg-type]


def replace_object(release: Path, name: str, change: Callable[[bytes], bytes], kind: str = "index") -> None:
    """Change an object of the live release and make every hash right again."""

    def edit(manifest: dict[str, Any]) -> None:
        for entry in list_entries(manifest, kind):
            path = release / entry["key"]
            if path.name.startswith(name):
                path.write_bytes(change(path.read_bytes()))
                entry |= describe(path)
                return
        raise AssertionError(f"no object {name}")

    rewrite_manifest(release, edit)


def list_entries(manifest: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    shards = [shard for item in manifest["collections"] for shard in item["shards"]]
    return [manifest["canaries"], *(shard[kind] for shard in shards)]


def replace_encoder(release: Path, change: Callable[[Any], None]) -> None:
    """Change the model of the live release and make every hash right again."""

    def edit(manifest: dict[str, Any]) -> None:
        entries = {entry["key"].rpartition("/")[2]: entry for entry in manifest["encoder"]["objects"]}
        path = release / entries["encoder.onnx"]["key"]
        model = onnx.load(str(path))
        change(model)
        path.write_bytes(model.SerializeToString())
        description = release / entries["encoder.json"]["key"]
        document = json.loads(description.read_bytes())
        document["files"]["encoder.onnx"] = describe(path)["sha256"]
        description.write_text(json.dumps(document))
        entries["encoder.onnx"] |= describe(path)
        entries["encoder.json"] |= describe(description)
        manifest["encoder"]["fingerprint"] = describe(description)["sha256"]

    rewrite_manifest(release, edit)


def rewrite_manifest(release: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    log = release / log_key(2)
    entry = json.loads(log.read_bytes())
    path = release / entry["manifest"]["key"]
    manifest = json.loads(path.read_bytes())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    entry["manifest"] |= describe(path)
    log.write_text(json.dumps(entry))


def describe(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
