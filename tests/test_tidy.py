"""The style rules a machine can check.  A rule that is not here is advice."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import forebay

PACKAGE = Path(forebay.__file__).parent
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 600
# Ground floor first.  A module may import from its own floor's folder and from lower floors only.
FLOORS = [
    {"errors", "types", "clock", "failpoints", "opened"},
    {"units", "paths", "modes"},
    {"observe", "config"},
    {"stores"},
    {"cache"},
    {"vfs"},
    {"frontends"},
    {"daemon"},
    {"cli", "client"},
    {"lookahead"},  # in users' programs, which have the client there
    {"torch"},
]
TESTING = {"testing"}  # may import the floors up to vfs; nothing imports it
TESTING_FLOOR = 6
# The functional core: plain state and arithmetic.  No clock, no I/O, no task, no thread, no chance.
PURE = {
    "cache/coming.py",
    "cache/numbers.py",
    "cache/pages.py",
    "cache/policy.py",
    "cache/readahead.py",
    "cache/s3fifo.py",
    "cli/doctor.py",
    "client/exchanges.py",
    "frontends/fuse/abi.py",
    "frontends/fuse/failures.py",
    "frontends/fuse/handshake.py",
    "frontends/fuse/mountinfo.py",
    "frontends/fuse/nodes.py",
    "frontends/fuse/wire.py",
    "frontends/local/format.py",
    "modes.py",
    "observe/distinct.py",
    "observe/ledger.py",
    "observe/phases.py",
    "observe/series.py",
    "observe/traffic.py",
    "paths.py",
    "units.py",
    "vfs/blocks.py",
    "vfs/journal_format.py",
    "vfs/mounttable.py",
    "vfs/quickness.py",
    "vfs/walkahead.py",
}
IMPURE = {"asyncio", "os", "random", "selectors", "socket", "subprocess", "threading", "time"}
CLOCKS = {"time.time", "time.time_ns", "time.monotonic", "time.perf_counter"}
BANNED = dict.fromkeys(CLOCKS, "clock.Clock") | {"os.environ": "config.load", "os.getenv": "config.load"}
# Where a banned name is what the module is for.
ALLOWED = {
    "clock.py": CLOCKS,
    "config/load.py": {"os.environ"},
    "cli/fs.py": {"os.environ"},  # `--option KEY=env:NAME` is the caller's environment
    "daemon/main.py": {"os.environ"},  # NOTIFY_SOCKET of the service manager
    "failpoints.py": {"os.environ"},  # read at import, before there are settings
    "daemon/starter.py": {"os.environ"},  # handed on to the daemon
    "stores/hdfs_environment.py": {"os.environ"},  # Hadoop's own variables; hdfs-native reads its user there only
    "frontends/fuse/mounting.py": {"os.environ"},  # handed on to fusermount3
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def floor_of(top: str) -> int:
    return next((i for i, floor in enumerate(FLOORS) if top in floor), TESTING_FLOOR)


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the absolute import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
class TestEveryModule:
    def test_opens_with_a_docstring_and_stays_short(self, path: Path) -> None:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), "say what the module is for"
        assert text.count("\n") <= MODULE_LINES_MAX

    def test_has_no_long_function(self, path: Path) -> None:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = node.body[0] if ast.get_docstring(node) else None
                doc_lines = (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
                lines = (node.end_lineno or 0) - node.lineno + 1 - doc_lines
                assert lines <= FUNCTION_LINES_MAX, f"{node.name}: {lines} lines"

    def test_imports_only_downwards(self, path: Path) -> None:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            return
        for name in imports(ast.parse(path.read_text())):
            if name.startswith("forebay."):
                top = name.split(".")[1]
                if top.startswith("__"):  # forebay.__version__
                    continue
                assert top == parts[0] or floor_of(top) < floor_of(parts[0]), f"{parts[0]} -> {top}"
                assert top == parts[0] or top not in TESTING, f"{parts[0]} -> testing"

    def test_uses_no_banned_name(self, path: Path) -> None:
        if name_of(path).startswith("testing/"):
            return  # servers and proxies: processes of their own, in real time
        allowed = ALLOWED.get(name_of(path), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                assert name not in BANNED or name in allowed, f"line {node.lineno}: use {BANNED[name]}, not {name}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_core_is_pure(name: str) -> None:
    used = {module.split(".")[0] for module in imports(ast.parse((PACKAGE / name).read_text()))}
    assert not used & IMPURE


def test_no_two_modules_import_each_other() -> None:
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    imported = {name: [f"{one}." for one in imports(ast.parse(path.read_text()))] for name, path in names.items()}
    graph = {
        name: {other for other in names if other != name and any(one.startswith(other + ".") for one in imported[name])}
        for name in names
    }
    TopologicalSorter(graph).prepare()  # raises CycleError and names the ring


def test_every_folder_has_a_floor() -> None:
    tops = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in MODULES} - {"__init__", "__main__"}
    assert tops == set().union(TESTING, *FLOORS)
