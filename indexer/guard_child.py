"""The child of `guard`: reads its order from standard input, opens a release, and tells in lines what it came to."""

import errno
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.guard import ChildLimits


def main() -> None:
    """Carry out the order; an error of the project is told, any other ends the process."""
    order = json.load(sys.stdin)
    ChildLimits(**order["limits"]).apply()
    # Nothing that parses files is imported, or allocates, before the limits hold.
    from indexer.errors import IndexerError, StoreError

    try:
        try_order(order)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        tell(failed=f"{error}; let it open more files (`ulimit -n`)")
    except StoreError as error:
        tell(failed=str(error))
    except IndexerError as error:
        tell(refused=str(error))
    else:
        tell(survived=True)


def try_order(order: Mapping[str, Any]) -> None:
    """Open the release and ask it; raises IntegrityError where it is not what it should be."""
    from indexer.canaries import check_answers, check_shard, parse_canaries
    from indexer.loaded_release import open_release
    from indexer.manifest import parse_manifest

    # What ends the process before this line is no fault of the release.
    tell(started=True)
    place = order["place"]
    files = {key: Path(path) for key, path in order["files"].items()}
    manifest = parse_manifest(order["manifest"].encode(), place)
    release = open_release(0, manifest, files, threads=1, mapped=True, place=place, tell=lambda key: tell(opening=key))
    for item in manifest.collections:
        for entry, shard in zip(item.shards, release.shards[item.name], strict=True):
            tell(opening=entry.index.key)
            check_shard(shard, item.ef_search, f"{place}/{entry.index.key}")
    if manifest.canaries:
        key = manifest.canaries.key
        tell(opening=key)
        check_answers(release, parse_canaries(files[key].read_bytes(), f"{place}/{key}"), place)


def tell(**document: Any) -> None:
    """Write one line that is there even if the process dies with the next call."""
    # A library may have begun a line.
    sys.stdout.write("\n" + json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
