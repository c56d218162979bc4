"""`indexer query`: search a release from the command line."""

from collections.abc import Sequence
from dataclasses import asdict

import click

from indexer.cli.options import json_option, print_json, public_key_option
from indexer.errors import ConfigError
from indexer.text import escape


@click.command()
@click.argument("url")
@click.argument("text")
@click.option("--collection", default="products", help="Collection to search: products or queries.")
@click.option("-k", default=10, help="Number of hits.")
@click.option(
    "--reformulations", default=0, metavar="N", help="Search through the N nearest curated queries, too, and say which."
)
@public_key_option
@json_option
def query(
    url: str, text: str, collection: str, k: int, reformulations: int, public_key: str | None, as_json: bool
) -> None:
    """Search the live release at URL (a folder or s3://bucket/prefix) for TEXT.

    \b
    Examples:
      indexer query release "baby sipper"
      indexer query release "couch" --collection queries -k 5
      indexer query release "hedphones" --reformulations 5
    """
    from indexer.reader import Hit, SourcedHit, open_index

    if reformulations and collection != "products":
        raise ConfigError(f"--reformulations: expected the collection products, found {collection}")
    index = open_index(url, public_key=public_key)
    hits: Sequence[Hit]
    if reformulations:
        hits = index.source(text, k, reformulations=reformulations)
    else:
        hits = index.search(text, collection=collection, k=k)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for hit in hits:
        through = f"  ({escape(hit.through)})" if isinstance(hit, SourcedHit) else ""
        click.echo(f"{hit.score:.4f}  {escape(hit.id)}  {escape(hit.text or '')}".rstrip() + through)
