"""Each setting with its value, where that comes from, and what it means.  Settings hold no secrets."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from forebay.config import settings as settings_module
from forebay.config.load import build, gather, to_text
from forebay.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of `forebay config`."""

    name: str
    value: str  # in the form that flags, environment and file take
    source: str
    doc: str


def explain(flags: Mapping[str, str]) -> list[Setting]:
    """Every setting, in the order of `Settings`; raises as `forebay.config.load.load`."""
    found = gather(flags)
    settings = build(found)
    docs = field_docs()
    return [
        Setting(name, to_text(name, getattr(settings, name)), given.source, docs[name]) for name, given in found.items()
    ]


@cache
def field_docs() -> dict[str, str]:
    """The docstring under each field of `Settings`, which Python itself does not keep."""
    module = ast.parse(Path(settings_module.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == Settings.__name__)
    docs = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            is_text = isinstance(text, ast.Constant) and isinstance(text.value, str)
            docs[field.target.id] = " ".join(str(text.value).split()) if is_text else ""  # type: ignore[union-attr]
    return docs
