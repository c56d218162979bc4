"""`indexer export`: copy a release into the format of another engine."""

from dataclasses import asdict
from pathlib import Path

import click

from indexer.cli.options import json_option, print_json, public_key_option, show_progress
from indexer.cli.summary import print_table


@click.command()
@click.argument("url")
@click.argument("folder")
@click.option(
    "--format",
    "kind",
    required=True,
    metavar="NAME",
    help="parquet, npy, vespa, opensearch (Elasticsearch, too) or hnswlib.",
)
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option("--encoder", is_flag=True, help="Also encoder.onnx, tokenizer.json and encoder.json.")
@click.option("--namespace", default="shop", help="Namespace of the document ids for vespa.")
@public_key_option
@click.option("--no-progress", is_flag=True, help="No progress bars.")
@json_option
def export(
    url: str,
    folder: str,
    kind: str,
    collections: tuple[str, ...],
    encoder: bool,
    namespace: str,
    public_key: str | None,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Copy the live release at URL (a folder or s3://bucket/prefix) into FOLDER, which must be new or empty.

    Only rows that searches find are copied. FOLDER appears when all is written; its export.json has the release, the
    encoder's fingerprint and the SHA-256 of every file. docs/exports.md shows how each format is loaded.

    \b
    Examples:
      indexer export release products-parquet --format parquet --collection products
      indexer export s3://my-bucket/search for-java --format hnswlib --encoder
    """
    from indexer.export.release import ExportOptions, export_release

    options = ExportOptions(format=kind, collections=collections, encoder=encoder, namespace=namespace)
    summary = export_release(url, Path(folder), options, progress=show_progress(no_progress), public_key=public_key)
    if as_json:
        print_json(asdict(summary))
        return
    click.echo(f"export  {folder}  {summary.kind}  run {summary.run_id}  log entry {summary.sequence}")
    print_table([asdict(collection) for collection in summary.collections])
    click.echo(f"  size     {summary.bytes / 2**20:.1f} MiB in {len(summary.files)} files")
    click.echo(f"  encoder  {summary.encoder}")
