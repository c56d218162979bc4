"""`indexer evaluate`: measure an encoder on labelled pairs."""

from dataclasses import asdict

import click

from indexer.cli.options import json_option, print_json, show_progress
from indexer.cli.summary import print_table
from indexer.config_file import load_config
from indexer.errors import ConfigError
from indexer.input_config import CatalogueConfig, LabelsConfig


@click.command()
@click.option("--encoder", required=True, metavar="DIR", help="Encoder directory, or sentence-transformers model.")
@click.option("--catalogue", required=True, metavar="FILE", help="Catalogue with titles.")
@click.option("--labels", required=True, metavar="FILE", help="Labelled (query, product) pairs.")
@click.option(
    "--column", "columns", multiple=True, metavar="TABLE.COLUMN=THEIRS", help="Map a column, catalogue.title=name."
)
@click.option("--slices", is_flag=True, help="Also by length of the query and for misspelled queries.")
@click.option("--retrieval", is_flag=True, help="Also search the whole catalogue, exactly and through an index.")
@click.option("--held-out", metavar="FILE", help="Only the queries that a training by this shop's TOML file holds out.")
@click.option("--no-progress", is_flag=True, help="No progress bars.")
@json_option
def evaluate(
    encoder: str,
    catalogue: str,
    labels: str,
    columns: tuple[str, ...],
    slices: bool,
    retrieval: bool,
    held_out: str | None,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Print ROC-AUC, precision and recall at 0.7, and NDCG, beside random, BM25 and zero-shot rows.

    Labels that the encoder was trained on flatter it: give others, or --held-out.

    \b
    Example:
      indexer evaluate --encoder work/distill/.../encoder-fp32 --held-out shop.toml \\
        --catalogue products.csv --labels judgements.tsv --column labels.label=grade
    """
    from indexer.distill.evaluate import evaluate_encoder

    mapped = _parse_columns(columns)
    found = evaluate_encoder(
        encoder,
        CatalogueConfig(path=catalogue, columns=mapped["catalogue"]),
        LabelsConfig(path=labels, columns=mapped["labels"]),
        with_slices=slices,
        with_retrieval=retrieval,
        held_out=load_config(held_out).distill if held_out else None,
        progress=show_progress(no_progress),
    )
    document = asdict(found)
    if as_json:
        print_json(document)
        return
    for rows in document.values():
        print_table(rows)


def _parse_columns(columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    mapped: dict[str, dict[str, str]] = {"catalogue": {}, "labels": {}}
    for text in columns:
        name, _, theirs = text.partition("=")
        table, _, column = name.partition(".")
        if table not in mapped or not column or not theirs:
            raise ConfigError(f"--column {text}: expected catalogue.COLUMN=THEIRS or labels.COLUMN=THEIRS")
        mapped[table][column] = theirs
    return mapped
