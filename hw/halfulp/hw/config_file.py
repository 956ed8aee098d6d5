"""Configurations as TOML files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from halfulp.hw.config import ArrayConfig
from halfulp.numerics.names import unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ConfigFileError", "config_toml", "load_config"]

EXPECTED = {int: "an integer", bool: "true or false", str: "a string", list: "a list of strings"}


class ConfigFileError(ValueError):
    """A configuration file that gives no core; one line that names the file, the key, its value and the rule."""


def load_config(path: str | Path) -> ArrayConfig:
    """Read a configuration: a TOML file whose keys are the parameters of `ArrayConfig`, all of them optional.

    Raises
    ------
    ConfigFileError
        Where the file is not to be read, is no TOML, has an unknown key, or a value breaks a rule.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigFileError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{file}: not UTF-8 text: {error}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileError(f"{file}: not TOML: {error}") from error
    try:
        _check_types(data)
        return ArrayConfig.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ConfigFileError(f"{file}: {error}") from error


def _check_types(data: dict[str, Any]) -> None:
    """Raise on a key that is no parameter, and on a value that is not of its parameter's type."""
    defaults = ArrayConfig().to_dict()
    for key, value in data.items():
        if key not in defaults:
            raise unknown_name("array parameter", key, defaults)
        wanted = type(defaults[key])
        items = value if isinstance(value, list) else []
        if type(value) is not wanted or not all(isinstance(item, str) for item in items):
            raise TypeError(f"{key} must be {EXPECTED[wanted]}, not {value!r}")


def config_toml(config: ArrayConfig) -> str:
    """The TOML text of a configuration: every parameter, a line each; `load_config` reads it back."""
    # Strings, integers and flat lists of them are written alike in JSON and in TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.to_dict().items())
