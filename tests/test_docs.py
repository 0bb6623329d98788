"""The documents against the code: what they name exists, and what exists is named."""

import ast
import errno
import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import pytest

from forebay.cli.main import build_app, run, run_fuse
from forebay.config.explain import field_docs
from forebay.config.load import HOME_NAME, to_text
from forebay.config.settings import Settings
from forebay.errors import FsError, kinds
from forebay.stores import azure_options, gcs_options, hub, registry, s3_options, sftp, web_options, webdav

ROOT = Path(__file__).resolve().parent.parent
README, ARCHITECTURE, CHANGELOG = ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"
SEMANTICS, CONFIGURATION, STORES, PYTHON = (
    ROOT / f"docs/{name}.md" for name in ("SEMANTICS", "CONFIGURATION", "STORES", "PYTHON")
)
FRAMEWORKS = ROOT / "docs/FRAMEWORKS.md"
DOCUMENTS = [README, ARCHITECTURE, CHANGELOG, SEMANTICS, CONFIGURATION, STORES, PYTHON, FRAMEWORKS]

PROOF = re.compile(r"`((?:tests|src)/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
UNITS = {
    "home": "folder",
    "cache_dirs": "folders, sizes",
    "cache_reserve": "share of a disk",
    "prefetch": "switch",
    "metrics_port": "port",
}
SHELL_WORDS = re.compile(r"[|;&<>]+")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.MULTILINE | re.DOTALL)


# ---------------------------------------------------------------- proofs


def sections() -> list[tuple[str, str]]:
    """Title and text of each numbered section of the promise."""
    parts = re.split(r"^## (.+)$", text_of(SEMANTICS), flags=re.MULTILINE)[1:]
    return [(title, body) for title, body in zip(parts[::2], parts[1::2], strict=True) if title[0].isdigit()]


@cache
def names_of_tests(path: Path) -> set[str]:
    """Names of tests in a file: functions, classes, and classes that a state machine makes."""
    found = set()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.lower().startswith("test")}


def test_the_promise_is_numbered_without_gaps() -> None:
    assert [int(title.split(".")[0]) for title, _ in sections()] == list(range(1, len(sections()) + 1))


@pytest.mark.parametrize(("title", "body"), sections(), ids=[title for title, _ in sections()])
def test_every_section_of_the_promise_ends_with_its_proofs(title: str, body: str) -> None:
    paragraph = body.strip().rpartition("\n\n")[2]
    assert paragraph.startswith("Proved by: "), f"{title}: name the tests that prove it, last"
    assert PROOF.findall(paragraph), title


@pytest.mark.parametrize("document", [SEMANTICS, ARCHITECTURE], ids=lambda path: path.name)
def test_every_proof_is_a_test_that_exists(document: Path) -> None:
    proofs = PROOF.findall(text_of(document))
    assert proofs
    for name, test in proofs:
        assert (ROOT / name).is_file(), f"{document.name} names {name}"
        assert test in names_of_tests(ROOT / name), f"{document.name} names {name}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    named = re.findall(r"`((?:src|tests|docs|bench|demo)/[\w./-]+)`", text_of(document))
    missing = [name for name in named if not name.startswith("demo/out/") and not (ROOT / name).exists()]
    assert not missing


def test_every_module_has_its_place_in_the_architecture() -> None:
    package, text = ROOT / "src/forebay", text_of(ARCHITECTURE)
    modules = [path for path in package.rglob("*.py") if not path.stem.startswith("__") or path.stem == "__main__"]
    missing = [
        str(path.relative_to(package))
        for path in modules
        if path.parent.name != "testing" and not re.search(rf"`{re.escape(path.name)}`", text)
    ]
    assert not missing, "say in ARCHITECTURE.md what they are for"


# ---------------------------------------------------------------- errors and settings


@pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
def test_every_kind_of_error_stands_in_the_promise_with_its_errno(kind: type[FsError]) -> None:
    retry = "yes" if kind.retryable else "no"
    row = f"| `{kind.__name__}` | `{errno.errorcode[kind.ERRNO]}` | {kind.http_status} | {retry} | "
    assert row in text_of(SEMANTICS), f"write: {row}"


def settings_rows() -> list[str]:
    """The table of settings, as it must stand in CONFIGURATION.md."""
    rows, docs = [], field_docs()
    for field in fields(Settings):
        default = HOME_NAME if field.default is MISSING else to_text(field.name, field.default)
        by_name = "bytes" if field.name.endswith("_bytes") else "seconds" if field.name.endswith("_s") else ""
        unit = UNITS.get(field.name) or by_name or ("count" if field.type is int else "word")
        rows.append(f"| `{field.name}` | {unit} | {f'`{default}`' if default else 'empty'} | {docs[field.name]} |")
    return rows


@pytest.mark.parametrize("row", settings_rows(), ids=[field.name for field in fields(Settings)])
def test_every_setting_stands_in_the_table_with_its_unit_default_and_meaning(row: str) -> None:
    assert row in text_of(CONFIGURATION).splitlines(), f"write: {row}"


def test_the_table_has_no_setting_that_does_not_exist() -> None:
    table = text_of(CONFIGURATION).partition("## Every setting")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)
    assert named == [field.name for field in fields(Settings)]


OPTIONS = {
    "S3 and what speaks its language": list(s3_options._WRITTEN),
    "Google Cloud Storage": list(gcs_options._NAMES._written.values()),
    "Azure Blob Storage and ADLS Gen2": list(azure_options._NAMES._written.values()),
    "Web servers": list(web_options._NAMES._written.values()),
    "SFTP": list(sftp._OPTIONS._written.values()),
    "WebDAV": list(webdav._OPTIONS._written.values()),
    "Hugging Face": list(hub._OPTIONS._written.values()),
}


@pytest.mark.parametrize("store", OPTIONS)
def test_every_option_of_a_store_stands_in_its_section(store: str) -> None:
    section = text_of(STORES).partition(f"\n## {store}\n")[2].partition("\n## ")[0]
    assert not [option for option in OPTIONS[store] if f"`{option}`" not in section and f"`{option}=" not in section]


def test_every_scheme_stands_in_the_stores() -> None:
    told = re.sub(r"(\w+)\[s\]://", r"\1:// \1s://", text_of(STORES))
    assert not [scheme for scheme in registry._MODULES if not re.search(rf"\b{scheme}://", told)]


# ---------------------------------------------------------------- commands


def commands(text: str) -> Iterator[list[str]]:
    """Every Forebay command in a document, in blocks and in running text, as words."""
    joined = text.replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines() if re.match(r" {4,}|\t", line)]
    inline = re.findall(r"`([^`\n]+)`", joined)
    for line in lines + inline:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        if not line.startswith(("forebay ", "forebay-fuse ")) or line == "forebay …":
            continue
        words: list[str] = []
        for word in lexer:
            if SHELL_WORDS.fullmatch(word):
                break
            words.append(word)
        yield words


COMMANDS = [
    pytest.param(words, id=f"{document.name}: {' '.join(words)}")
    for document in DOCUMENTS
    for words in sorted({tuple(words) for words in commands(text_of(document))})
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_that_is_shown_is_one(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_HOME", "/dev/null/home")  # an option that takes --help for its value runs the command
    program, *rest = words
    entry = {"forebay": run, "forebay-fuse": run_fuse}[program]
    assert entry([*rest, "--help"]) == 0, capsys.readouterr().err


def test_the_readme_shows_every_command() -> None:
    app = build_app()
    groups = [("", app), *((group.name or "", group.typer_instance) for group in app.registered_groups)]
    every = {
        tuple(f"forebay {group} {command.name or getattr(command.callback, '__name__', '')}".split())
        for group, found in groups
        if found is not None
        for command in found.registered_commands
    }
    assert len(every) > 20
    shown = list(commands(text_of(README)))
    assert not [command for command in every if not any(tuple(words[: len(command)]) == command for words in shown)]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:^    |`)make ([\w-]+)", text_of(document), flags=re.MULTILINE)
        assert set(named) <= targets, document.name


# ---------------------------------------------------------------- links and figures


def anchors(path: Path) -> set[str]:
    """What headings can be linked to as, by GitHub's rule."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(text_of(path)))
    return {title.replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for link in LINK.findall(without_code(text_of(document))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.is_file(), f"{document.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{document.name} links to {link}"
