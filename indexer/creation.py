"""Proof that a bucket refuses to create an object twice, which is all that keeps two publishers from one log number."""

import random
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from indexer.errors import ConfigError, ObjectExistsError, StoreError, StoreRefusedError, StoreUnsupportedError
from indexer.store import READ_ATTEMPTS, S3Store, SingleWriterStore, Store

RACERS = 8
"""Creates of one fresh key that are sent at once."""
_PROOF = re.compile(r".*/create\.[0-9a-f]{32}", re.S)
_proven: set[tuple[str, str]] = set()
"""Service and address of the buckets that this process has seen to create an object once."""


def prove_creates(store: Store, run_id: str) -> None:
    """Raise ConfigError where a bucket lets several creates of one key succeed; asks once per process and address.

    One tiny object of the run stays, which `release gc` removes: a publisher needs no right to delete. A folder
    refuses by itself, and a single writer has nobody to race. This finds a bucket that ignores the condition, and
    mostly one that checks it too early; `indexer doctor` looks longer. Raises StoreError where storage fails.
    """
    if not isinstance(store, S3Store) or isinstance(store, SingleWriterStore):
        return
    address = (store.endpoint, store.url)
    if address in _proven:
        return
    for attempt in range(1, READ_ATTEMPTS + 1):
        problem = _judge_race(store, f"v/{run_id}/create.{uuid.uuid4().hex}")
        if problem is None:
            _proven.add(address)
            return
        if attempt == READ_ATTEMPTS:
            raise problem
        time.sleep(random.uniform(0.5, 1.0) * 2**attempt / 4)


def is_proof(key: str) -> bool:
    """Tell whether an object was left by a proof: no release names it, and nobody reads it."""
    return _PROOF.fullmatch(key) is not None


def race_creates(store: Store, key: str) -> list[StoreError | None]:
    """Let RACERS create one key at once, each its number as text; return what each was told, None for success.

    Raises StoreError where the system gives no thread for each.
    """
    barrier = Barrier(RACERS)

    def create(number: int) -> StoreError | None:
        barrier.wait()
        return _try_create(store, key, number)

    with ThreadPoolExecutor(RACERS) as pool:
        try:
            return list(pool.map(create, range(RACERS)))
        except RuntimeError as error:
            # Those that started wait for the others.
            barrier.abort()
            raise StoreError(f"{store.url}: {error}; let this process start {RACERS} threads") from error


def _judge_race(store: S3Store, key: str) -> StoreError | None:
    """Return None where exactly one create can have succeeded and another was refused, else why nobody can tell."""
    outcomes = race_creates(store, key)
    if None in outcomes:
        # Where all others were told to come again, one that comes later must be refused.
        outcomes.append(_try_create(store, key, RACERS))
    for outcome in outcomes:
        if isinstance(outcome, StoreRefusedError):
            raise outcome
        if isinstance(outcome, StoreUnsupportedError):
            raise _refuse_store(store, f"it answered {outcome}") from outcome
    if outcomes.count(None) > 1:
        raise _refuse_store(store, f"{outcomes.count(None)} creates of {key} succeeded")
    if None in outcomes and any(isinstance(outcome, ObjectExistsError) for outcome in outcomes):
        return None
    # An answer may be lost: then nobody was told that the key is taken, or nobody that the object is its own.
    return next((outcome for outcome in outcomes if outcome is not None), None)


def _try_create(store: Store, key: str, number: int) -> StoreError | None:
    try:
        store.put_new(key, str(number).encode())
    except StoreError as problem:
        return problem
    return None


def _refuse_store(store: S3Store, finding: str) -> ConfigError:
    return ConfigError(
        f"store {store.url}: expected a bucket that creates an object once (If-None-Match), but {finding}; publish to "
        "another, or set shop.single_writer = true (`--single-writer`) and see to it that only one process writes"
    )
