"""Settings from flags, the environment and `forebay.toml`, in that order of rank: the only module that reads them.

Every field of `Settings` can be given in each of the three.  A wrong name or value is an error that says where it
stands and what is expected there; nothing is ignored.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from forebay.config.settings import CacheDir, Settings
from forebay.errors import Denied, FsError, Invalid, NotFound
from forebay.failpoints import VARIABLE as FAILPOINT_VARIABLE
from forebay.units import format_exact_size, parse_duration, parse_size

FILE_NAME = "forebay.toml"
HOME_NAME = "~/.forebay"
PREFIX = "FOREBAY_"
CONFIG_VARIABLE = "FOREBAY_CONFIG"
_NO_SETTINGS = {CONFIG_VARIABLE, FAILPOINT_VARIABLE}
# A Kubernetes service called "forebay" puts variables of these names into every container beside it.
_FOREIGN_VARIABLE = re.compile(r"FOREBAY_(SERVICE_.*|PORT(_.*)?)")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

FIELDS = {field.name: field for field in fields(Settings)}


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was found, and where."""

    value: object
    source: str  # "flag", "environment FOREBAY_X", "file /path/forebay.toml" or "default"


def load(flags: Mapping[str, str]) -> Settings:
    """The settings of this process; `flags` are settings by name, as text, and outrank all else.

    Raises:
        Invalid: an unknown name, or a value that cannot be, with the place it stands in.
        NotFound, Denied: the file that FOREBAY_CONFIG names cannot be read.
    """
    return build(gather(flags))


def gather(flags: Mapping[str, str]) -> dict[str, Given]:
    """Every setting by name, as found in its highest place; raises as `load`."""
    named = _named({name.replace("-", "_"): value for name, value in flags.items()}, "flag")
    from_environment = _from_environment()
    for name, given in from_environment.items():
        named.setdefault(name, given)
    from_file = _from_file(named)
    found = {}
    for name in FIELDS:
        found[name] = named.get(name) or from_file.get(name) or Given(_default(name), "default")
    return found


def build(found: Mapping[str, Given]) -> Settings:
    """Settings of what was found; raises Invalid."""
    values = {name: _parse(name, given) for name, given in found.items()}
    try:
        return Settings(**values)  # type: ignore[arg-type]  # each value was parsed by its field's type
    except Invalid as error:
        name = error.message.split(" ", 1)[0]
        source = found[name].source if name in found else "default"
        raise Invalid(f"{error.message} ({source})") from None


def to_text(name: str, value: object) -> str:
    """A setting's value in the form that flags and the environment take; `load` reads it back.

    >>> to_text("memory_bytes", 64 << 20), to_text("ttl_s", 60.0), to_text("prefetch", True)
    ('64MiB', '60s', 'true')
    """
    if name == "cache_dirs" and isinstance(value, tuple):
        return ",".join(map(_cache_dir_text, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if name.endswith("_bytes") and isinstance(value, int):
        return format_exact_size(value)
    if name.endswith("_s") and isinstance(value, float):
        return f"{value:.15g}s"
    return str(value)


def to_flags(settings: Settings) -> dict[str, str]:
    """What another process must be given as flags to come to the same settings, whatever its environment says."""
    return {name: to_text(name, getattr(settings, name)) for name in FIELDS}


# ---------------------------------------------------------------- the three places


def _from_environment() -> dict[str, Given]:
    found = {}
    for variable, value in os.environ.items():
        if not variable.startswith(PREFIX) or variable in _NO_SETTINGS or _FOREIGN_VARIABLE.fullmatch(variable):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in FIELDS or variable != variable.upper():
            near = _nearest(name)
            raise Invalid(
                f"the environment variable {variable} is no setting of Forebay"
                + (f"; did you mean {PREFIX}{near.upper()}?" if near else "; forebay config lists them")
            )
        if value:
            found[name] = Given(value, f"environment {variable}")
    return found


def _from_file(named: Mapping[str, Given]) -> dict[str, Given]:
    given = os.environ.get(CONFIG_VARIABLE)
    home = named.get("home") or Given(HOME_NAME, "default")
    path = Path(given).expanduser() if given else _parse_path("home", home) / FILE_NAME
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if given:
            raise NotFound(f"{CONFIG_VARIABLE} names {path}, which does not exist", path=str(path)) from error
        return {}
    except OSError as error:
        raise Denied(f"cannot read the settings in {path}: {error.strerror}", path=str(path)) from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise Invalid(f"{path} is not a TOML file: {error}", path=str(path)) from error
    found = _named(table, f"file {path}")
    if "home" in found and not given:
        raise Invalid(f"{path}: `home` cannot be set in a file that lies in it; use --home or {PREFIX}HOME")
    return found


def _named(values: Mapping[str, object], source: str) -> dict[str, Given]:
    for name in values:
        if name not in FIELDS:
            near = _nearest(name)
            hint = f"did you mean {near!r}?" if near else "forebay config lists them"
            raise Invalid(f"there is no setting {name!r} ({source}); {hint}")
    return {name: Given(value, source) for name, value in values.items()}


def _nearest(name: str) -> str | None:
    found = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.5)
    return found[0] if found else None


def _default(name: str) -> object:
    default = FIELDS[name].default
    return HOME_NAME if default is MISSING else default


# ---------------------------------------------------------------- values


def _parse(name: str, given: Given) -> object:
    """The value of a field, by its type and the unit at the end of its name."""
    kind, value = FIELDS[name].type, given.value
    try:
        if name == "cache_dirs":
            return _parse_cache_dirs(value)
        if kind is Path:
            return _parse_path(name, given)
        if kind is bool:
            return _parse_bool(value)
        if isinstance(value, bool):
            raise Invalid("true and false mean nothing here")
        if name.endswith("_bytes"):
            return value if isinstance(value, int) else parse_size(_text(value))
        if name.endswith("_s"):
            return float(value) if isinstance(value, int | float) else parse_duration(_text(value))
        if kind in (int, float):
            return _parse_number(value, whole=kind is int)
        return _text(value)
    except FsError as error:
        raise Invalid(f"setting {name}: {error.message} ({given.source})") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Invalid(f"expected text, found {value!r}")
    return value


def _parse_path(name: str, given: Given) -> Path:
    text = _text(given.value)
    if not text or "\0" in text:
        raise Invalid(f"setting {name}: a folder is needed ({given.source})")
    return Path(text).expanduser().absolute()  # the daemon works in another folder


def _parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise Invalid(f"write true or false, not {value!r}")
    return text in _TRUE


def _parse_number(value: object, *, whole: bool) -> int | float:
    try:
        if isinstance(value, str):
            text = value.replace("_", "").strip()
            if not whole and text.endswith("%"):
                return float(text[:-1]) / 100
            return int(text) if whole else float(text)
    except ValueError as error:
        raise Invalid(f"{value!r} is not a {'whole number' if whole else 'number'}") from error
    if isinstance(value, int) or (isinstance(value, float) and not whole):
        return value
    raise Invalid(f"{value!r} is not a {'whole number' if whole else 'number'}")


def _parse_cache_dirs(value: object) -> tuple[CacheDir, ...]:
    if isinstance(value, tuple):
        return value  # the default
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise Invalid("write a list, such as [{path = '/ssd1', size = '200GiB'}], or '/ssd1:200GiB,/ssd2'")
    found = tuple(_parse_cache_dir(part) for part in parts if part)
    if len({folder.path for folder in found}) < len(found):
        raise Invalid("the same folder stands there twice")
    return found


def _parse_cache_dir(part: object) -> CacheDir:
    if isinstance(part, dict):
        if not {"path"} <= set(part) <= {"path", "size"}:
            raise Invalid(f"a cache folder has a path and a size, not {', '.join(map(str, part)) or 'nothing'}")
        size = part.get("size")
        capacity = None if size is None else size if type(size) is int else parse_size(_text(size))
        folder = CacheDir(Path(_text(part["path"])).expanduser().absolute(), capacity)
    else:
        path, colon, size = _text(part).strip().rpartition(":")
        if not colon or "/" in size:
            path, size = _text(part).strip(), ""
        folder = CacheDir(Path(path).expanduser().absolute(), parse_size(size) if size else None)
    if folder.capacity_bytes is not None and folder.capacity_bytes <= 0:
        raise Invalid(f"the size of the cache folder {folder.path} must be above 0")
    if "," in str(folder.path) or ":" in str(folder.path):
        raise Invalid(f"a cache folder's path cannot hold ',' or ':', got {folder.path}")
    return folder


def _cache_dir_text(folder: CacheDir) -> str:
    size = folder.capacity_bytes
    return str(folder.path) if size is None else f"{folder.path}:{format_exact_size(size)}"
