"""Mount options as users write them: `KEY=VALUE`, a file of such lines, and values kept out of `ps`.

A value of `env:NAME` is taken from the caller's environment, `file:PATH` from a file (without its last line feed).
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from forebay.errors import FsError, Invalid


def parse_options(pairs: Iterable[str], option_file: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The options of one mount; what stands on the command line outranks the file.

    Raises:
        Invalid: not `KEY=VALUE`, or the variable or file that a value names cannot be read.
    """
    lines = [] if option_file is None else _option_lines(option_file)
    options = {}
    for where, pair in [*lines, *(("--option", pair) for pair in pairs)]:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            # The text itself may be a secret, so it is not repeated.
            raise Invalid(f"{where}: an option is written KEY=VALUE, for example s3.region=eu-central-1")
        options[key.strip()] = _resolve(key.strip(), value, environment)
    return options


def _option_lines(path: str) -> list[tuple[str, str]]:
    lines = enumerate(_read_text(path, f"option file {path}").splitlines(), start=1)
    return [(f"{path}:{n}", line.strip()) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]


def _resolve(key: str, value: str, environment: Mapping[str, str]) -> str:
    if value.startswith("env:"):
        name = value.removeprefix("env:")
        if name not in environment:
            raise Invalid(f"option {key}: there is no environment variable {name}; set it and export it")
        return environment[name]
    if value.startswith("file:"):
        return _read_text(value.removeprefix("file:"), f"option {key}").removesuffix("\n")
    return value


def _read_text(path: str, what: str) -> str:
    try:
        return Path(os.path.expanduser(path)).read_text()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FsError):
            raise
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Invalid(f"{what}: cannot read {path}: {reason}") from error
