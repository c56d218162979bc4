"""`indexer release`: what is published, what is live, what is kept, and what can go."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from indexer.cli.options import (
    json_option,
    print_json,
    public_key_option,
    signing_options,
    single_writer_option,
)
from indexer.errors import IntegrityError
from indexer.text import escape

if TYPE_CHECKING:
    from indexer.log import LogEntry
    from indexer.releases.history import History
    from indexer.store import Store

url_argument = click.argument("url")
run_argument = click.argument("run_id", metavar="RUN")


@click.group()
def release() -> None:
    """Look at the releases of a store, roll back, keep, delete.

    URL is a folder or s3://bucket/prefix, RUN a run of `indexer release list`.

    \b
    Examples:
      indexer release list release
      indexer release rollback release
      indexer release gc s3://bucket/search --yes
    """


@release.command("list")
@url_argument
@public_key_option
@json_option
def list_releases(url: str, public_key: str | None, as_json: bool) -> None:
    """List the published runs, newest first.

    \b
    Example:
      indexer release list release
    """
    from indexer.releases.describe import describe_history
    from indexer.store import open_store

    history, _ = _read_trusted(open_store(url), public_key)
    lines = describe_history(history)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        state = ", ".join(line["state"]) or "-"
        click.echo(f"{line['sequence']:6}  {escape(line['run_id'])}  published {escape(line['published_at'])}  {state}")


@release.command()
@url_argument
@click.argument("run_id", metavar="[RUN]", required=False)
@public_key_option
@json_option
def show(url: str, run_id: str | None, public_key: str | None, as_json: bool) -> None:
    """Show one release, by default the live one.

    \b
    Example:
      indexer release show release 2026-11-19-4f0c1d2e3a5b
    """
    from indexer.log import read_manifest
    from indexer.releases.describe import describe_release
    from indexer.store import open_store

    store = open_store(url)
    history, (entry,) = _read_trusted(store, public_key, run_id)
    document = describe_release(history, entry, read_manifest(store, entry))
    _show(document, as_json)


@release.command()
@url_argument
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="[AFTER]", required=False)
@public_key_option
@json_option
def diff(url: str, before: str, after: str | None, public_key: str | None, as_json: bool) -> None:
    """Show what differs between two releases; AFTER is the live one by default.

    \b
    Example:
      indexer release diff release 2026-11-19-4f0c1d2e3a5b
    """
    from indexer.log import read_manifest
    from indexer.releases.describe import compare_releases
    from indexer.store import open_store

    store = open_store(url)
    entries = _read_trusted(store, public_key, before, after)[1]
    document = compare_releases(*(read_manifest(store, entry) for entry in entries))
    _show(document, as_json)


@release.command()
@url_argument
@click.argument("run_id", metavar="[RUN]", required=False)
@signing_options
@click.option(
    "--expires-days",
    default=0,
    type=click.IntRange(0, 36_500),
    envvar="INDEXER_SHOP_EXPIRES_DAYS",
    show_envvar=True,
    help="Days for which a signed one is served (shop.expires_days).",
)
@single_writer_option
@json_option
def rollback(
    url: str,
    run_id: str | None,
    signing_key: str,
    public_key: str,
    expires_days: int,
    single_writer: bool,
    as_json: bool,
) -> None:
    """Make an earlier release live again, by default the one that was live before.

    A rollback that expires is prolonged by naming its run once more, with --expires-days.

    \b
    Example:
      indexer release rollback s3://bucket/search
    """
    from indexer.releases.changes import roll_back
    from indexer.signature import open_signing_key
    from indexer.store import open_store

    key = open_signing_key(signing_key, public_keys=public_key, expires_days=expires_days)
    entry = roll_back(open_store(url, single_writer=single_writer), run_id, key)
    _show({"status": "rolled back", "run_id": entry.run_id, "sequence": entry.sequence}, as_json)


@release.command()
@url_argument
@run_argument
@signing_options
@single_writer_option
@json_option
def pin(url: str, run_id: str, signing_key: str, public_key: str, single_writer: bool, as_json: bool) -> None:
    """Keep a release until it is unpinned.

    \b
    Example:
      indexer release pin release 2026-11-19-4f0c1d2e3a5b
    """
    from indexer.releases import changes
    from indexer.signature import open_signing_key
    from indexer.store import open_store

    key = open_signing_key(signing_key, public_keys=public_key)
    entry = changes.pin(open_store(url, single_writer=single_writer), run_id, key)
    _show({"status": "pinned", "run_id": run_id, "sequence": entry.sequence}, as_json)


@release.command()
@url_argument
@run_argument
@signing_options
@single_writer_option
@json_option
def unpin(url: str, run_id: str, signing_key: str, public_key: str, single_writer: bool, as_json: bool) -> None:
    """Keep a release no longer than others.

    \b
    Example:
      indexer release unpin release 2026-11-19-4f0c1d2e3a5b
    """
    from indexer.releases import changes
    from indexer.signature import open_signing_key
    from indexer.store import open_store

    key = open_signing_key(signing_key, public_keys=public_key)
    entry = changes.unpin(open_store(url, single_writer=single_writer), run_id, key)
    _show({"status": "unpinned", "run_id": run_id, "sequence": entry.sequence}, as_json)


@release.command()
@url_argument
@click.option("--keep", default=7, type=click.IntRange(2), help="Newest releases that are kept.")
@click.option("--grace-days", default=3, type=click.IntRange(0, 36_500), help="Days for which what was live is kept.")
@click.option("--yes", is_flag=True, help="Do it; without this only the plan is shown.")
@click.option("--yes-delete", is_flag=True, help="Do it even where most of the runs go, or those of another key.")
@signing_options
@single_writer_option
@json_option
def gc(
    url: str,
    keep: int,
    grace_days: int,
    yes: bool,
    yes_delete: bool,
    signing_key: str,
    public_key: str,
    single_writer: bool,
    as_json: bool,
) -> None:
    """Retire releases that nobody needs and delete what only they had.

    Kept are the live release, pinned ones, the newest, those that were live a short time ago, and every object that
    one of these names. A retired run can never go live again. Where nothing is live nothing goes; more
    than half of the runs, and those of a key that is not trusted, need --yes-delete.

    \b
    Example:
      indexer release gc release --keep 7 --grace-days 3 --yes
    """
    from indexer.releases.garbage import KeepingRule, collect_garbage, plan_garbage
    from indexer.signature import open_signing_key
    from indexer.store import open_store

    store, key = open_store(url, single_writer=single_writer), open_signing_key(signing_key, public_keys=public_key)
    plan = plan_garbage(store, KeepingRule(releases=keep, grace=timedelta(days=grace_days)), key=key)
    _warn_of_void(plan.history)
    done, live = yes or yes_delete, plan.history.live
    if done:
        collect_garbage(store, plan, key, most=yes_delete)
    document = {
        "status": "untouched" if live is None else "deleted" if done else "planned",
        "kept": list(plan.kept),
        "retire": list(plan.retire),
        "objects": len(plan.delete),
        "drafts": len(plan.drafts),
        "bytes": plan.bytes,
        "bytes_left": plan.left,
        "foreign_objects": plan.foreign,
        "live": live.run_id if live else None,
        "takes_most": plan.takes_most,
        "distrusted": list(plan.distrusted),
    }
    _show(document, as_json)
    if not done and not as_json and (plan.retire or plan.delete or plan.drafts):
        option = "--yes-delete" if plan.takes_most or plan.distrusted else "--yes"
        click.echo(f"nothing was changed; give {option} to do it")
    if live is None and not as_json:
        click.echo("nothing is live here, so nothing goes: is this the address, and is its log/ whole?")


@release.command()
@url_argument
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--sizes-only", is_flag=True, help="Ask for sizes and read no bytes.")
@public_key_option
@json_option
def verify(url: str, run_id: str | None, sizes_only: bool, public_key: str | None, as_json: bool) -> None:
    """Read every object of a release, by default the live one, compare it with its hash, and open it in a child.

    \b
    Example:
      indexer release verify release
    """
    from tqdm import tqdm

    from indexer.cli.options import show_progress
    from indexer.log import read_manifest
    from indexer.releases.verify import verify_release
    from indexer.store import open_store

    store = open_store(url)
    _, (entry,) = _read_trusted(store, public_key, run_id)
    manifest = read_manifest(store, entry)
    found, count = verify_release(store, manifest, sizes_only=sizes_only), len(manifest.objects)
    bar = tqdm(found, total=count, desc="verify", unit=" objects", disable=not show_progress(False))
    damage = [sentence for sentence in bar if sentence]
    document = {"run_id": entry.run_id, "objects": count, "opened": not (sizes_only or damage), "damaged": damage}
    _show(document, as_json)
    if damage:
        raise IntegrityError(
            f"{len(damage)} of {count} objects are damaged or cannot be opened; roll back, or build the night again"
        )


def _read_trusted(store: "Store", public_key: str | None, *run_ids: str | None) -> "tuple[History, list[LogEntry]]":
    """Return what the log says, and the entries of runs, of what is live where one is None.

    With a key, raises IntegrityError unless these are signed and what is live has not expired; entries that count for
    nothing, as no trusted key signed them, are named on stderr.
    """
    from indexer.log_signature import check_signature, trust
    from indexer.releases.history import read_history
    from indexer.signature import open_public_key

    key = open_public_key(public_key)
    history = read_history(store, key=key)
    _warn_of_void(history)
    entries = [history.find_release(run_id) if run_id else history.require_live() for run_id in run_ids]
    trust(key, store.url)(history.require_live())
    if key is not None:
        for entry in entries:
            check_signature(entry, key, store.url)
    return history, entries


def _warn_of_void(history: "History") -> None:
    for reason in history.void.values():
        click.echo(f"warning: {escape(reason)}", err=True)


def _show(document: dict[str, Any], as_json: bool) -> None:
    print_json(document) if as_json else _print_lines(document)


def _print_lines(document: dict[str, Any], indent: str = "") -> None:
    """Print a document for people, one line per value."""
    for name, value in document.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{escape(name)}" + ("" if value else "  -"))
            _print_lines(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for item in value:
                # Of what differs, one side may have nothing of the kind.
                _print_lines({name: item}, indent)
        else:
            text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
            click.echo(f"{indent}{escape(name)}  {escape(text or '-')}")
