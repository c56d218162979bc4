"""`indexer label`: have a language model label pairs, or write queries, as one more input of labels."""

import os
from pathlib import Path

import click

from indexer.cli.options import config_options, json_option, open_config, print_json, show_progress
from indexer.cli.summary import print_figures
from indexer.errors import ConfigError


@click.command()
@config_options
@click.option("--products", type=click.IntRange(min=1), metavar="N", help="Write queries for N products instead.")
@click.option("--output", required=True, metavar="FILE", help="CSV of labels to write; `source` is llm.")
@click.option("--no-progress", is_flag=True, help="No progress bars.")
@json_option
def label(
    config_path: str | None,
    settings: tuple[str, ...],
    products: int | None,
    output: str,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Label the pairs of [pairs] by the chat endpoint of [llm], or have it write queries.

    Only what two generations agree on is kept.

    Answers are kept under the work folder: the same command goes on where a budget or an error ended it.

    \b
    Examples:
      indexer label --config shop.toml --set pairs.path=pairs.tsv --output llm.csv
      indexer label --config shop.toml --products 500 --output llm-queries.csv
    """
    from indexer.distill.llm_client import ChatClient
    from indexer.distill.llm_labels import (
        LABEL_PROMPT,
        QUERIES_PROMPT,
        label_pairs,
        make_queries,
        read_prompt,
        write_labels,
    )

    if Path(output).is_dir():
        # Before anything is paid for.
        raise ConfigError(f"--output {output}: expected a file to write, found a folder")
    loaded = open_config(config_path, settings)
    llm, progress = loaded.llm, show_progress(no_progress)
    client = ChatClient(llm, key=os.environ.get(llm.key_variable), cache=Path(loaded.shop.work) / "llm")
    if products:
        prompt = read_prompt(llm.prompt, default=QUERIES_PROMPT, names=("product",))
        found = make_queries(
            loaded.catalogue, client, products=products, seed=loaded.distill.seed, prompt=prompt, progress=progress
        )
    else:
        prompt = read_prompt(llm.prompt, default=LABEL_PROMPT, names=("query", "product"))
        found = label_pairs(loaded.pairs, loaded.catalogue, client, prompt=prompt, progress=progress)
    write_labels(found, Path(output))
    counts = {**found.counts.as_counts(), "labels": len(found.labels), "left_out": dict(found.left_out)}
    counts["endpoint"] = client.counts
    if as_json:
        print_json({**counts, "rejects": found.counts.as_rows()})
        return
    click.echo(f"label  {output}")
    print_figures(counts, found.counts.as_rows())
