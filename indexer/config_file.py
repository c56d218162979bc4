"""Fill the configuration from options, environment, file and defaults, in this order of precedence.

An option is `section.key=value`; an environment variable is `INDEXER_SECTION_KEY`; the file is TOML.
Relative paths of the file, and the default folders for work and release, are taken from the folder it lies in.
"""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from indexer.config import Config, ShopConfig
from indexer.console import LEVEL_VARIABLE
from indexer.distill_config import CROSS, SCORES
from indexer.errors import ConfigError
from indexer.methods import METHODS
from indexer.redaction import has_credentials
from indexer.text import shorten

MAX_FILE_BYTES = 1 << 20
PREFIX = "INDEXER_"
PATH_KEYS = (
    "path",
    "work",
    "release",
    "encoder",
    "teachers",
    "student",
    "prompt",
    "golden",
    "signing_key",
    "public_keys",
)


class Setting(NamedTuple):
    """A value and the place it comes from."""

    value: Any
    origin: str


def load_config(
    path: str | None = None, *, options: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> Config:
    """Build the configuration; raises ConfigError naming the key, its place and what was expected."""
    return build_config(collect_settings(path, options=options, environment=environment))


def collect_settings(
    path: str | None = None, *, options: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> dict[str, dict[str, Setting]]:
    """Return section -> key -> the setting that wins; defaults are left out."""
    settings: dict[str, dict[str, Setting]] = {name: {} for name in section_types()}
    for source in (
        _file_settings(path) if path else (),
        _environment_settings(os.environ if environment is None else environment),
        _option_settings(options),
    ):
        for section, key, setting in source:
            _refuse_credentials(f"{section}.{key} in {setting.origin}", setting.value)
            settings[section][key] = setting
    return settings


def build_config(settings: Mapping[str, Mapping[str, Setting]]) -> Config:
    """Turn winning settings into the frozen configuration; raises ConfigError on a value out of range."""
    sections: dict[str, Any] = {}
    for name, kind in section_types().items():
        values = {key: setting.value for key, setting in settings.get(name, {}).items()}
        if name == "distill":
            values = {**METHODS.get(values.get("method", "default"), {}), **values}
        try:
            sections[name] = kind(**values)
        except ConfigError as error:
            places = sorted({setting.origin for setting in settings[name].values()})
            raise ConfigError(f"[{name}] {error} (set in {', '.join(places)})") from None
    return Config(**sections)


def section_types() -> dict[str, type]:
    """Return section name -> dataclass, in the order of the file."""
    return get_type_hints(Config)


def _refuse_credentials(place: str, value: Any) -> None:
    """Raise ConfigError, which does not name the value, where a text of a setting is or holds a credential."""
    if isinstance(value, str) and has_credentials(value):
        raise ConfigError(
            f"{place}: holds an access key, a password or a signature (not shown); releases carry the configuration, "
            "so leave credentials to the standard AWS chain or to environment variables"
        )
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ():
        _refuse_credentials(place, item)


def _file_settings(path: str) -> Iterable[tuple[str, str, Setting]]:
    file = Path(path)
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"configuration {path}: larger than {MAX_FILE_BYTES} bytes, which is no configuration")
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    # Not valid TOML, not UTF-8, or a number of more digits than Python takes.
    except (OSError, ValueError) as error:
        raise ConfigError(f"configuration {path}: cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError(f"configuration {path}: nested too deeply") from None
    for key in ("work", "release"):
        yield "shop", key, Setting(_resolve(key, getattr(ShopConfig(), key), file.parent), path)
    for section, values in document.items():
        kind = _section(section, path)
        if not isinstance(values, dict):
            raise ConfigError(f"configuration {path}: expected a table [{section}], found {shorten(values)}")
        for key, value in values.items():
            hint = _hint(section, kind, key, path)
            checked = _check(value, hint, f"{section}.{key} in {path}")
            yield section, key, Setting(_resolve(key, checked, file.parent), path)


def _environment_settings(environment: Mapping[str, str]) -> Iterable[tuple[str, str, Setting]]:
    names = {f"{PREFIX}{section.upper()}_": section for section in section_types()}
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or name == LEVEL_VARIABLE:
            continue
        place = f"environment variable {name}"
        section = next((section for start, section in names.items() if name.startswith(start)), None)
        if section is None:
            known = [start.rstrip("_") for start in names]
            raise ConfigError(f"{place}: expected {PREFIX}SECTION_KEY{_nearest(name.rpartition('_')[0], known)}")
        key = name.removeprefix(f"{PREFIX}{section.upper()}_").lower()
        hint = _hint(section, section_types()[section], key, place)
        yield section, key, Setting(_parse(text, hint, place), name)


def _option_settings(options: Iterable[str]) -> Iterable[tuple[str, str, Setting]]:
    for option in options:
        name, equals, text = option.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"option --set {option}: expected section.key=value, such as npmi.tau=0.4")
        hint = _hint(section, _section(section, "--set"), key, "--set")
        yield section, key, Setting(_parse(text.strip(), hint, f"--set {name}"), f"--set {name}")


def _section(name: str, place: str) -> type:
    known = section_types()
    if name not in known:
        raise ConfigError(f"unknown section [{name}] in {place}{_nearest(name, known)}")
    return known[name]


def _hint(section: str, kind: type, key: str, place: str) -> Any:
    hints = get_type_hints(kind)
    known = [item.name for item in dataclasses.fields(kind)]
    if key not in known:
        raise ConfigError(f"unknown key {section}.{key} in {place}{_nearest(key, known)}")
    return hints[key]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"


def _parse(text: str, hint: Any, place: str) -> Any:
    if hint is str:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: expected {_describe(hint)}, found {shorten(text)}") from None
    return _check(value, hint, place)


def _check(value: Any, hint: Any, place: str) -> Any:
    """Return the value in the type of its field, or raise; only int to float is converted."""
    if get_origin(hint) is tuple:
        if isinstance(value, list):
            return tuple(_check(item, get_args(hint)[0], place) for item in value)
    elif get_origin(hint) is not None:
        if isinstance(value, dict):
            return {key: _check(item, get_args(hint)[1], place) for key, item in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    elif type(value) is hint and not (hint is int and abs(value) >= 2**63):
        return value
    raise ConfigError(f"{place}: expected {_describe(hint)}, found {shorten(value)}")


def _describe(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"a list of {_describe(get_args(hint)[0])}"
    if get_origin(hint) is not None:
        return f"a table of {_describe(get_args(hint)[1])}"
    return {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}[hint]


def _resolve(key: str, value: Any, folder: Path) -> Any:
    """Take relative paths from the folder of the file; a model id that is no folder there stays an id."""
    if isinstance(value, tuple) and key in PATH_KEYS:
        return tuple(_resolve(key, item, folder) for item in value)
    if key == "teachers" and value.startswith(SCORES):
        return SCORES + _resolve("path", value.removeprefix(SCORES), folder)
    if key == "teachers" and value.startswith(CROSS):
        return CROSS + _resolve(key, value.removeprefix(CROSS), folder)
    if key not in PATH_KEYS or not value or "://" in value or Path(value).is_absolute():
        return value
    path = folder / value
    return value if key in ("teachers", "student") and not path.exists() else str(path)
