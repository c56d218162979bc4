"""`indexer doctor`: whether this machine and this store can do a night's work."""

from dataclasses import asdict
from pathlib import Path

import click

from indexer.cli.options import config_options, json_option, open_config, print_json
from indexer.text import escape


@click.command()
@click.argument("url", required=False)
@config_options
@json_option
@click.pass_context
def doctor(
    context: click.Context, url: str | None, config_path: str | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Look at the machine, and try out a store: can a night run here, and publish there?

    URL is a folder or s3://bucket/prefix; with --config it is the shop's. The probe writes below `probe/` and removes
    what it wrote, for which it needs rights that a night does not: see docs/stores.md.

    \b
    Exit codes: 0 fine (perhaps with warnings), 2 this machine or setting is unfit,
    6 the store breaks what releases rely on, 75 the store is not reached or refuses.

    \b
    Examples:
      indexer doctor --config shop.toml
      indexer doctor s3://bucket/search --json
    """
    from indexer.doctor.findings import sum_up
    from indexer.doctor.machine import examine_machine
    from indexer.doctor.storage import examine_store

    loaded = open_config(config_path, settings)
    machine = examine_machine(
        work=Path(loaded.shop.work) if config_path else None,
        java=_describe_java,
        needs_java=bool(config_path and loaded.purchases.path),
        memory_limit_gib=loaded.index.memory_limit_gib,
        shop=loaded.shop,
    )
    address = url or (loaded.shop.release if config_path else None)
    store = examine_store(address, single_writer=loaded.shop.single_writer) if address else ()
    found = []
    for finding in (item for part in (machine, store) for item in part):
        found.append(finding)
        if not as_json:
            advice = f"; {finding.advice}" if finding.advice else ""
            click.echo(escape(f"{finding.state:8} {finding.subject:20} {finding.found}{advice}"))
    code = sum_up(found)
    if as_json:
        print_json({"exit_code": code, "store": address, "findings": [asdict(item) for item in found]})
    context.exit(code)


def _describe_java() -> str:
    """Return the version and place of the Java that Spark gets."""
    from spark.java import find_java, java_version

    home = find_java()
    return f"{java_version(home / 'bin' / 'java')} at {home}"
