"""`indexer query`: search a release from the command line."""

from dataclasses import asdict

import click

from indexer.cli.options import json_option, print_json
from indexer.text import escape


@click.command()
@click.argument("url")
@click.argument("text")
@click.option("--collection", default="products", help="Collection to search: products or queries.")
@click.option("-k", default=10, help="Number of hits.")
@json_option
def query(url: str, text: str, collection: str, k: int, as_json: bool) -> None:
    """Search the live release at URL (a folder or s3://bucket/prefix) for TEXT.

    \b
    Examples:
      indexer query release "baby sipper"
      indexer query release "couch" --collection queries -k 5
    """
    from indexer.reader import open_index

    hits = open_index(url).search(text, collection=collection, k=k)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for hit in hits:
        click.echo(f"{hit.score:.4f}  {escape(hit.id)}  {escape(hit.text or '')}".rstrip())
