"""A folder against a plain one: whatever programs do to both, both answer and look alike.

For a mount, write

    class OnMount(TreeMachine):
        subject_above, model_above = mnt, tmp_path

        def restart_subject(self) -> None: ...  # kill the daemon, and wait until the mount is back

    run_state_machine_as_test(OnMount, settings=SETTINGS)

Every example works in a new folder below each.  After each step names, kinds, sizes, bytes, modes, link targets and
extended attributes are equal, and each time of modification that `utime` set is there, or is gone, in both.
The calls are those of `os`, so they come from this process: the subject's daemon must run in another one.
"""

import errno
import itertools
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.testing import libc

SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
HANDLES_MAX = 4
# Nobody but `utime` makes these times: so they are known again wherever they show.
TIMES_NS = (1, 999_999_999, 981_173_106_123_456_789, 1_234_567_890_000_000_001, 4_102_444_800_000_000_007)

names = st.sampled_from(["a", "b", "c d", "\u00e9"])
contents = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size),
    st.integers(0, 9),
    st.sampled_from([0, 1, 10, 4_095, 4_096, 5_000, 70_000, 300_000]),  # more than one FUSE request, too
)
offsets = st.sampled_from([0, 1, 9, 4_095, 4_096, 6_000, 131_072, 400_000])
handles = st.integers(0, HANDLES_MAX - 1)
flags = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND])
xattrs = st.sampled_from(["user.one", "user.two.three"])


class Pick(NamedTuple):
    """Says which name a rule is about, once it is known which are there: see `TreeMachine.there` and `.inside`."""

    number: int
    name: str


picks = st.builds(Pick, st.integers(-30, 99), names)


class Handle(NamedTuple):
    """One file, open in both."""

    subject: int
    model: int


class Look(NamedTuple):
    """What is to be seen of one name; None is what its kind does not have, or what is not compared."""

    kind: int
    mode: int | None
    size: int | None
    content: bytes | None
    target: str | None
    time_ns: int | None
    xattrs: tuple[tuple[str, bytes], ...]


class TreeMachine(RuleBasedStateMachine):
    """See the module.

    Invariant: `handles` are pairs of descriptors of the same file; both trees look alike between two rules.
    """

    subject_above: ClassVar[Path]
    model_above: ClassVar[Path]
    # What the subject need not do as the model does: "exchange", "folder times".
    without: ClassVar[frozenset[str]] = frozenset()
    time_step_ns: ClassVar[int] = 1  # what the subject keeps of times

    _numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.handles: list[Handle] = []
        self.names: list[str] = []  # what is there, as of the last step
        self.folders = [""]

    def restart_subject(self) -> None:
        """Let the subject end and come back, as by a kill of its daemon; a subclass may give it a meaning."""

    @initialize()
    def make_roots(self) -> None:
        """A new folder in each, one level down: a link may lead out of it, and what is made there must go too."""
        below = f"tree.{next(self._numbers)}/root"
        self.subject, self.model = str(self.subject_above / below), str(self.model_above / below)
        for root in (self.subject, self.model):
            os.makedirs(root)
            os.mkdir(f"{root}/a")
            for path in ("b", "a/a"):
                _put(f"{root}/{path}", os.O_CREAT, b"one")

    def there(self, pick: Pick) -> str:
        """A name that is there, mostly."""
        return self.inside(pick) if pick.number < 0 or not self.names else self.names[pick.number % len(self.names)]

    def inside(self, pick: Pick) -> str:
        """A name in a folder that is there, mostly; perhaps it is taken."""
        folder = "b/" if pick.number == -1 else self.folders[pick.number % len(self.folders)]
        return f"{folder}{pick.name}"

    def both(self, what: str, do: Callable[[str], object]) -> object:
        """Do it below each root: the same value, or the same errno, which is returned as its name."""
        return _same(what, lambda: do(self.subject), lambda: do(self.model))

    def on_handle(self, what: str, number: int, do: Callable[[int], object]) -> None:
        """Do it to an open file in both."""
        handle = self.handles[number % len(self.handles)]
        _same(what, lambda: do(handle.subject), lambda: do(handle.model))

    # ---------------------------------------------------------------- files by name

    @rule(at=picks, content=contents, mode=st.sampled_from([0o644, 0o600, 0o755]))
    def create_or_overwrite(self, at: Pick, content: bytes, mode: int) -> None:
        """open(O_CREAT|O_TRUNC), write, close."""
        path = self.inside(at)
        self.both(f"overwrite {path}", lambda root: _put(f"{root}/{path}", os.O_CREAT | os.O_TRUNC, content, mode))

    @rule(at=picks, content=contents)
    def create_exclusively(self, at: Pick, content: bytes) -> None:
        """open(O_CREAT|O_EXCL)."""
        path = self.inside(at)
        self.both(f"create {path}", lambda root: _put(f"{root}/{path}", os.O_CREAT | os.O_EXCL, content))

    @rule(at=picks, content=contents)
    def append(self, at: Pick, content: bytes) -> None:
        """open(O_APPEND), write, close."""
        path = self.there(at)
        self.both(f"append to {path}", lambda root: _put(f"{root}/{path}", os.O_APPEND, content))

    @rule(at=picks, content=contents, offset=offsets)
    def write_at(self, at: Pick, content: bytes, offset: int) -> None:
        """Write into a file that is there, perhaps behind its end."""
        path = self.there(at)
        self.both(f"write to {path}", lambda root: _put(f"{root}/{path}", 0, content, offset=offset))

    @rule(at=picks, size=offsets)
    def truncate(self, at: Pick, size: int) -> None:
        """truncate(2), up or down."""
        path = self.there(at)
        self.both(f"truncate {path}", lambda root: os.truncate(f"{root}/{path}", size))

    @rule(at=picks)
    def unlink(self, at: Pick) -> None:
        """Also of files that are open."""
        path = self.there(at)
        self.both(f"unlink {path}", lambda root: os.unlink(f"{root}/{path}"))

    @rule(at=picks, to=picks)
    def rename(self, at: Pick, to: Pick) -> None:
        """Files and folders, over what is there."""
        source, new = self.there(at), self.inside(to)
        self.both(f"rename {source} to {new}", lambda root: os.rename(f"{root}/{source}", f"{root}/{new}"))

    @rule(at=picks, to=picks)
    def rename_without_replacing(self, at: Pick, to: Pick) -> None:
        """renameat2(RENAME_NOREPLACE)."""
        source, new = self.there(at), self.inside(to)
        self.both(
            f"rename {source} to a new {new}",
            lambda root: libc.renameat2(f"{root}/{source}", f"{root}/{new}", libc.RENAME_NOREPLACE),
        )

    @rule(at=picks, to=picks)
    def exchange(self, at: Pick, to: Pick) -> None:
        """renameat2(RENAME_EXCHANGE)."""
        source, new = self.there(at), self.there(to)

        def swap(root: str) -> None:
            libc.renameat2(f"{root}/{source}", f"{root}/{new}", libc.RENAME_EXCHANGE)

        if "exchange" in self.without and _outcome(lambda: swap(self.subject)) == "EINVAL":
            return
        self.both(f"exchange {source} and {new}", swap)

    # ---------------------------------------------------------------- folders and links

    @rule(at=picks)
    def mkdir(self, at: Pick) -> None:
        """A folder."""
        path = self.inside(at)
        self.both(f"mkdir {path}", lambda root: os.mkdir(f"{root}/{path}"))

    @rule(at=picks)
    def rmdir(self, at: Pick) -> None:
        """A folder, empty or not, or a file."""
        path = self.there(at)
        self.both(f"rmdir {path}", lambda root: os.rmdir(f"{root}/{path}"))

    @rule(at=picks, to=st.sampled_from(["a", "b", "../a", "a/b", "absent", "x" * 300, "b/"]))
    def symlink(self, at: Pick, to: str) -> None:
        """To what is there, to what is not, and to itself."""
        path = self.inside(at)
        self.both(f"symlink {path}", lambda root: os.symlink(to, f"{root}/{path}"))

    @rule(at=picks)
    def readlink(self, at: Pick) -> None:
        """Of links, and of what is none."""
        path = self.there(at)
        self.both(f"readlink {path}", lambda root: os.readlink(f"{root}/{path}"))

    # ---------------------------------------------------------------- attributes

    @rule(at=picks, mode=st.sampled_from([0o644, 0o600, 0o640, 0o755, 0o700, 0o777]))
    def chmod(self, at: Pick, mode: int) -> None:
        """Of files and folders."""
        path = self.there(at)
        self.both(f"chmod {path}", lambda root: os.chmod(f"{root}/{path}", mode))

    @rule(at=picks, time_ns=st.sampled_from(TIMES_NS))
    def utime(self, at: Pick, time_ns: int) -> None:
        """To the nanosecond."""
        path, time_ns = self.there(at), self._kept(time_ns)
        self.both(f"utime {path}", lambda root: os.utime(f"{root}/{path}", ns=(time_ns, time_ns)))

    @rule(
        at=picks,
        name=xattrs,
        value=st.binary(max_size=64),
        how=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    def setxattr(self, at: Pick, name: str, value: bytes, how: int) -> None:
        """New, or in place of one."""
        path = self.there(at)
        self.both(f"setxattr {path}", lambda root: os.setxattr(f"{root}/{path}", name, value, how))

    @rule(at=picks, name=xattrs)
    def removexattr(self, at: Pick, name: str) -> None:
        """Also of one that is not there."""
        path = self.there(at)
        self.both(f"removexattr {path}", lambda root: os.removexattr(f"{root}/{path}", name))

    @rule(at=picks)
    def statvfs(self, at: Pick) -> None:
        """It answers alike for what is there and for what is not, and its numbers can be."""
        path = self.there(at)

        def ask(root: str) -> int:
            said = os.statvfs(f"{root}/{path}")
            assert said.f_bsize > 0, said
            assert said.f_blocks >= said.f_bfree >= said.f_bavail > 0, said
            return said.f_namemax

        self.both(f"statvfs {path}", ask)

    # ---------------------------------------------------------------- open files

    @precondition(lambda self: len(self.handles) < HANDLES_MAX)
    @rule(at=picks, flag=flags, extra=st.sampled_from([0, os.O_CREAT, os.O_CREAT | os.O_TRUNC]))
    def open(self, at: Pick, flag: int, extra: int) -> None:
        """Keep it open while other rules work on the same file."""
        path = self.there(at)
        opened: list[int] = []

        def begin(root: str) -> None:
            opened.append(os.open(f"{root}/{path}", flag | extra, 0o644))

        try:
            if self.both(f"open {path}", begin) is None:
                self.handles.append(Handle(*opened))
                opened = []
        finally:
            for fd in opened:
                os.close(fd)

    @precondition(lambda self: self.handles)
    @rule(number=handles, content=contents, offset=offsets)
    def write_open(self, number: int, content: bytes, offset: int) -> None:
        """pwrite(2), also to a file without a name."""
        self.on_handle("pwrite", number, lambda fd: os.pwrite(fd, content, offset))

    @precondition(lambda self: self.handles)
    @rule(number=handles)
    def unlink_open(self, number: int) -> None:
        """Take away what is now at the name of an open file; the file lives on, often without a name."""
        path = self._name_of(number)
        self.both(f"unlink {path}, which is open", lambda root: os.unlink(f"{root}/{path}"))

    @precondition(lambda self: self.handles)
    @rule(number=handles, content=contents, offset=offsets)
    def read_beside_a_writer(self, number: int, content: bytes, offset: int) -> None:
        """A second handle reads before and after the first one writes, which stays open."""
        path, handle = self._name_of(number), self.handles[number % len(self.handles)]

        def work(root: str) -> tuple[bytes, object, bytes, int]:
            reader = os.open(f"{root}/{path}", os.O_RDONLY)
            try:
                before = os.pread(reader, 500_000, 0)
                writer = handle.subject if root == self.subject else handle.model
                wrote = _outcome(lambda: os.pwrite(writer, content, offset))
                return before, wrote, os.pread(reader, 500_000, 0), os.fstat(reader).st_size
            finally:
                os.close(reader)

        self.both(f"read {path} beside a writer", work)

    @precondition(lambda self: self.handles)
    @rule(number=handles, offset=st.sampled_from([0, 1, 4_096, 131_072]))
    def read_open(self, number: int, offset: int) -> None:
        """pread(2) of what others wrote, also of a file without a name."""
        self.on_handle("pread", number, lambda fd: (os.fstat(fd).st_size, os.pread(fd, 500_000, offset)))

    @precondition(lambda self: self.handles)
    @rule(number=handles, size=offsets)
    def truncate_open(self, number: int, size: int) -> None:
        """ftruncate(2)."""
        self.on_handle("ftruncate", number, lambda fd: os.ftruncate(fd, size))

    @precondition(lambda self: self.handles)
    @rule(number=handles, mode=st.sampled_from([0o644, 0o600]), time_ns=st.sampled_from(TIMES_NS))
    def change_open(self, number: int, mode: int, time_ns: int) -> None:
        """fchmod(2) and futimens(3), as `cp -p` and `tar` do before they close."""

        time_ns = self._kept(time_ns)

        def change(fd: int) -> tuple[int, int]:
            os.fchmod(fd, mode)
            os.utime(fd, ns=(time_ns, time_ns))
            return os.fstat(fd).st_mode, os.fstat(fd).st_mtime_ns

        self.on_handle("fchmod and futimens", number, change)

    @precondition(lambda self: self.handles)
    @rule(number=handles)
    def sync_open(self, number: int) -> None:
        """fsync(2)."""
        self.on_handle("fsync", number, os.fsync)

    @precondition(lambda self: self.handles)
    @rule(number=handles)
    def close(self, number: int) -> None:
        """close(2), which may be the end of a file without a name."""
        self._close(self.handles.pop(number % len(self.handles)))

    @rule()
    def restart(self) -> None:
        """The subject comes back as it was; open files end before, for they would not outlive it."""
        while self.handles:
            self._close(self.handles.pop())
        self.restart_subject()

    def _kept(self, time_ns: int) -> int:
        return time_ns - time_ns % self.time_step_ns

    def _name_of(self, number: int) -> str:
        """The name of an open file, or, if it has none, its last one."""
        root, handle = os.path.realpath(self.model), self.handles[number % len(self.handles)]
        return os.readlink(f"/proc/self/fd/{handle.model}").removeprefix(f"{root}/").removesuffix(" (deleted)")

    def _close(self, handle: Handle) -> None:
        _same("close", lambda: os.close(handle.subject), lambda: os.close(handle.model))

    # ---------------------------------------------------------------- what holds

    @invariant()
    def both_look_alike(self) -> None:
        """Each name shows the same in both."""
        if not hasattr(self, "model"):
            return
        subject, model = (dict(self._looks(root, "")) for root in (self.subject, self.model))
        self.names = sorted(model)
        self.folders = ["", *(f"{path}/" for path in self.names if model[path].kind == stat.S_IFDIR)]
        assert sorted(subject) == self.names, f"names: {sorted(subject)}, and should be {self.names}"
        for path, must in model.items():
            seen = subject[path]
            wrong = [field for field in Look._fields if getattr(seen, field) != getattr(must, field)]
            told = [f"{field} is {_short(getattr(seen, field))}, not {_short(getattr(must, field))}" for field in wrong]
            assert not wrong, f"{path}: {'; '.join(told)}"

    def _looks(self, root: str, below: str) -> Iterator[tuple[str, Look]]:
        for name in os.listdir(f"{root}/{below}"):
            path = f"{below}{name}"
            look = self._look(f"{root}/{path}")
            yield path, look
            if look.kind == stat.S_IFDIR:
                yield from self._looks(root, f"{path}/")

    def _look(self, path: str) -> Look:
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        is_file, is_link = kind == stat.S_IFREG, kind == stat.S_IFLNK
        has_time = is_file or (kind == stat.S_IFDIR and "folder times" not in self.without)
        return Look(
            kind=kind,
            mode=None if is_link else stat.S_IMODE(found.st_mode),
            size=found.st_size if is_file or is_link else None,
            content=Path(path).read_bytes() if is_file else None,
            target=os.readlink(path) if is_link else None,
            time_ns=found.st_mtime_ns if has_time and found.st_mtime_ns in map(self._kept, TIMES_NS) else None,
            xattrs=() if is_link else tuple(_xattrs(path)),
        )

    def teardown(self) -> None:
        """Leave nothing open, and no folder."""
        for fd in itertools.chain(*self.handles):
            os.close(fd)
        if hasattr(self, "model"):
            for root in (self.subject, self.model):
                shutil.rmtree(os.path.dirname(root))


def _put(path: str, flag: int, content: bytes, mode: int = 0o644, *, offset: int = 0) -> int:
    fd = os.open(path, os.O_WRONLY | flag, mode)
    try:
        return os.write(fd, content) if offset == 0 else os.pwrite(fd, content, offset)
    finally:
        os.close(fd)


def _outcome(do: Callable[[], object]) -> object:
    """What it gives, or its errno by name."""
    try:
        return do()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _same(what: str, on_subject: Callable[[], object], on_model: Callable[[], object]) -> object:
    is_so, must = _outcome(on_subject), _outcome(on_model)
    assert is_so == must, f"{what}: {_short(is_so)}, and should be {_short(must)}"
    return must


def _xattrs(path: str) -> Iterator[tuple[str, bytes]]:
    for name in sorted(os.listxattr(path)):
        if name.startswith("user."):
            yield name, os.getxattr(path, name)


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:16].hex()}\u2026"
    return repr(value)[:200]
