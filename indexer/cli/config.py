"""`indexer config show`: every value and where it comes from."""

import dataclasses

import click

from indexer.cli.options import config_options, json_option, print_json
from indexer.config import as_document
from indexer.config_file import build_config, collect_settings
from indexer.methods import METHODS


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@config_options
@json_option
def show(config_path: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Print every key, its value and where the value comes from.

    \b
    Example:
      indexer config show --config shop.toml --set npmi.tau=0.4
    """
    chosen = collect_settings(config_path, options=settings)
    built = build_config(chosen)
    if as_json:
        print_json(as_document(built))
        return
    method = built.distill.method
    for section in dataclasses.fields(built):
        click.echo(f"[{section.name}]")
        for key, value in as_document(getattr(built, section.name)).items():
            setting = chosen[section.name].get(key)
            default = f"method {method}" if section.name == "distill" and key in METHODS[method] else "default"
            click.echo(f"{key} = {value!r}  # {setting.origin if setting else default}")
