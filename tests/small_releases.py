"""Releases of a few bytes, published by the project's own code; no consumer could open them."""

import hashlib
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from indexer.build.publish import RunFolder, SealedEncoder, publish
from indexer.log import read_head
from indexer.manifest import Manifest, ObjectEntry, ShardEntry
from indexer.releases.history import History, read_history
from indexer.signature import PublicKey, SigningKey
from indexer.store import LocalStore, Store
from tests.proof.actors import make_manifest as describe_run


def put(store: LocalStore, key: str, data: bytes) -> ObjectEntry:
    """Store bytes; return their entry."""
    store.put_new(key, data)
    return ObjectEntry(key=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def make_shard(store: LocalStore, run_id: str, number: int = 0) -> ShardEntry:
    """Store a shard of one row."""
    index, ids = (put(store, f"v/{run_id}/{number}.{kind}", f"{run_id}{number}".encode()) for kind in ("index", "ids"))
    return ShardEntry(
        collection="products", number=number, rows=1, fingerprint="0" * 64, index=index, ids=ids, texts=None
    )


def make_manifest(
    store: LocalStore, run_id: str, shards: tuple[ShardEntry, ...], parent: int, *, run_date: str = "2026-11-20"
) -> Manifest:
    """Store a run's encoder; return the manifest of its release."""
    described = put(store, f"v/{run_id}/encoder.json", run_id.encode())
    others = [put(store, f"v/{run_id}/{name}", b"x") for name in ("encoder.onnx", "tokenizer.json")]
    encoder = SealedEncoder(fingerprint=described.sha256, objects=(described, *others))
    return describe_run(run_id, parent, encoder, list(shards), run_date=run_date)


def publish_run(
    store: LocalStore, run_id: str, *kept: ShardEntry, run_date: str = "2026-11-20", key: SigningKey | None = None
) -> ShardEntry:
    """Publish a run with a shard of its own beside those of others; return the shard."""
    own = make_shard(store, run_id, len(kept))
    shards = tuple(replace(shard, number=number) for number, shard in enumerate((*kept, own)))
    manifest = make_manifest(store, run_id, shards, read_head(store), run_date=run_date)
    publish(RunFolder(store, run_id, key=key), manifest)
    return own


def read_history_at(store: Store, head: int) -> History:
    """Return what the log said when so many entries stood in it."""
    history = read_history(store)
    return replace(history, entries=history.entries[:head])


def make_signing_key(path: str = "key.pem", private: Any = None, *, expires_days: int = 0) -> SigningKey:
    """Return a key that signs and trusts itself."""
    private = private or Ed25519PrivateKey.generate()
    return SigningKey(path, private, PublicKey(path, (private.public_key(),)), expires_days=expires_days)
