"""What programs see in a mount: names, bytes, attributes and errors, as on a disk that is write-protected."""

import hashlib
import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay
from mount.conftest import Child, Reader

Mount = Callable[..., Path]
READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_the_usual_tools_read_it_as_a_folder(mounted: Mount, folder: Path, mnt: Path) -> None:
    files = {f"d{i % 3}/f{i}.bin": some_bytes(i * 40_000, i) for i in range(12)}
    fill(folder, files)
    mounted()
    out = mnt.parent / "out"
    out.mkdir()
    for command in (
        ["cp", "-r", f"{mnt}/.", f"{out}/cp"],
        ["sh", "-c", f"mkdir {out}/tar && tar -C {mnt} -cf - . | tar -C {out}/tar -xf -"],
        ["diff", "-r", str(folder), f"{out}/cp"],
        ["diff", "-r", str(folder), f"{out}/tar"],
        ["sh", "-c", f"cd {mnt} && find . -type f | sort | xargs md5sum > {out}/sums"],
        ["sh", "-c", f"cd {folder} && md5sum -c --quiet {out}/sums"],
        ["rm", "-r", f"{out}/cp"],
    ):
        ran = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert ran.returncode == 0, (command, ran.stderr, ran.stdout)
    assert len((out / "sums").read_text().splitlines()) == len(files)


def test_rsync_copies_it_and_then_finds_nothing_to_do(mounted: Mount, folder: Path, mnt: Path) -> None:
    fill(folder, {"a": b"one", "d/b": some_bytes(300_000)})
    mounted()
    out = mnt.parent / "out"
    subprocess.run(["rsync", "-a", f"{mnt}/", f"{out}/"], check=True, timeout=60)
    assert (out / "d/b").read_bytes() == some_bytes(300_000)
    again = subprocess.run(["rsync", "-ai", f"{mnt}/", f"{out}/"], check=True, timeout=60, capture_output=True)
    assert again.stdout == b""


@pytest.mark.parametrize("shown", [(), ("--readonly",), ("--small-files",)])
def test_every_byte_is_right_however_it_is_read(
    shown: tuple[str, ...], mounted: Mount, folder: Path, mnt: Path, child: Child
) -> None:
    data = some_bytes(9_500_000)
    fill(folder, {"f": data})
    mounted(shown=shown)
    code = """
import mmap, random
data = open(argv[2], 'rb').read()
chance = random.Random(5)
for again in range(2):
    with open(argv[1], 'rb', buffering=0) as file:
        for _ in range(200):
            start = chance.randrange(len(data) + 1000); size = chance.choice([1, 4096, 70_000, 2_000_000])
            file.seek(start)
            got = b''
            while len(got) < size and (piece := file.read(size - len(got))): got += piece
            assert got == data[start:start + size], (start, size)
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[:] == data
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5 and os.lseek(file.fileno(), 5, os.SEEK_HOLE) == len(data)
"""
    child(code, mnt / "f", folder / "f")


def test_readers_in_several_processes_get_the_same_bytes(mounted: Mount, folder: Path, mnt: Path) -> None:
    data = some_bytes(20_000_000)
    fill(folder, {"f": data})
    mounted()
    code = "import hashlib; print(hashlib.md5(open(argv[1], 'rb').read()).hexdigest())"
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(code, mnt / "f")) for _ in range(6)]
        sums = {reader.end().strip() for reader in readers}
    assert sums == {hashlib.md5(data).hexdigest()}


ODD_NAMES = [
    b"new\nline", b"\xff\xfe not utf-8", b"n" * 255, "\u00fc\u4e2d\U0001f600".encode(), b" ", b"-rf", b"*", b"a'b\"c",
    b"\\", b"\x01\x7f", b"...", b"~",
]  # fmt: skip


def test_odd_names_are_listed_found_and_read(mounted: Mount, folder: Path, mnt: Path, child: Child) -> None:
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)
    mounted()
    code = """
root = os.fsencode(argv[1])
names = os.listdir(root)
for name in names:
    assert open(root + b'/' + name, 'rb').read() == name, name
sys.stdout.buffer.write(b'\\0'.join(sorted(names)))
"""
    assert child(code, mnt).stdout.split(b"\0") == sorted(ODD_NAMES)


def test_a_name_of_256_bytes_is_too_long_and_a_missing_one_is_missing(mounted: Mount, mnt: Path, child: Child) -> None:
    mounted()
    code = """
for name, number in (('n' * 256, errno.ENAMETOOLONG), ('nothing', errno.ENOENT), ('nothing/below', errno.ENOENT)):
    try: os.stat(argv[1] + '/' + name)
    except OSError as error: assert error.errno == number, error
    else: raise AssertionError(name)
"""
    child(code, mnt)


def test_a_folder_of_five_thousand_is_listed_whole(mounted: Mount, folder: Path, mnt: Path, child: Child) -> None:
    for index in range(5000):
        (folder / f"file-{index:05d}").touch()
    mounted()
    code = """
assert len(set(os.listdir(argv[1]))) == 5000
assert all(entry.is_file() and entry.stat().st_size == 0 for entry in os.scandir(argv[1]))
"""
    child(code, mnt)


CHANGES = {
    "create": "open(root + '/new', 'w')",
    "overwrite": "open(root + '/f', 'w')",
    "append": "open(root + '/f', 'a')",
    "open for reading and writing": "os.open(root + '/f', os.O_RDWR)",
    "lmdb's lock file": "os.open(root + '/lock.mdb', os.O_RDWR | os.O_CREAT, 0o644)",
    "truncate": "os.truncate(root + '/f', 0)",
    "unlink": "os.unlink(root + '/f')",
    "mkdir": "os.mkdir(root + '/new')",
    "rmdir": "os.rmdir(root + '/d')",
    "rename": "os.rename(root + '/f', root + '/g')",
    "link": "os.link(root + '/f', root + '/g')",
    "symlink": "os.symlink('f', root + '/g')",
    "chmod": "os.chmod(root + '/f', 0)",
    "chown": "os.chown(root + '/f', 1, 1)",
    "utime": "os.utime(root + '/f')",
    "setxattr": "os.setxattr(root + '/f', 'user.x', b'1')",
    "mknod": "os.mkfifo(root + '/g')",
}

EVERY_CHANGE_IS_REFUSED = "root = argv[1]\n" + "\n".join(
    f"try: {call}\nexcept OSError as error: assert error.errno == errno.EROFS, ({name!r}, error)\n"
    f"else: raise AssertionError({name!r})"
    for name, call in CHANGES.items()
)


def test_every_change_is_refused_as_on_a_read_only_disk(mounted: Mount, folder: Path, mnt: Path, child: Child) -> None:
    fill(folder, {"f": b"one", "d/x": b""})
    mounted("--readonly")
    child(EVERY_CHANGE_IS_REFUSED, mnt)
    assert (folder / "f").read_bytes() == b"one"


@pytest.mark.parametrize("kind", ["readonly", "small-files"])
def test_a_readonly_folder_refuses_every_change_also_where_the_mount_takes_them_and_after_a_restart(
    kind: str, mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    fill(folder, {"f": b"one", "d/x": b""})
    mounted(shown=(f"--{kind}",))
    child(EVERY_CHANGE_IS_REFUSED, mnt)
    assert forebay("stop").code == 0
    assert kind.replace("-", " ") in forebay("fuse", "stat").out.decode()
    child(EVERY_CHANGE_IS_REFUSED, mnt)
    assert (folder / "f").read_bytes() == b"one"


@pytest.fixture
def asked(mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child) -> Callable[[str], Counter[str]]:
    """What the kernel asks of a local folder of such a kind, by opcode, while a file is read a hundred times."""

    def ask(kind: str) -> Counter[str]:
        fill(folder, {"f": b"one"})
        mounted(shown=(kind,))
        child("for _ in range(100): assert open(argv[1], 'rb').read() == b'one'", mnt / "f")
        (info,) = json.loads(forebay("fuse", "stat", "--json").out)
        return Counter(info["requests"])

    return ask


def test_a_readonly_folder_is_not_asked_for_attributes_at_each_open_of_a_cached_file(
    asked: Callable[[str], Counter[str]],
) -> None:
    requests = asked("--readonly")
    assert requests["OPEN"] == 100
    assert requests["GETATTR"] < 10


def test_a_folder_for_small_files_is_asked_for_bytes_once_and_never_for_opens(
    asked: Callable[[str], Counter[str]],
) -> None:
    requests = asked("--small-files")
    assert requests["READ"] <= 2
    assert requests["OPEN"] <= 1
    assert requests["RELEASE"] + requests["GETATTR"] < 10


def test_a_folder_for_small_files_shows_what_others_write_as_it_is_now(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    fill(folder, {"log": b""})
    mounted("--write-mode", "back", shown=("--small-files",))
    writable = mnt.parent / "writable"
    writable.mkdir()
    assert forebay("fuse", "mount", str(writable), "/data").code == 0
    code = """
import time
with open(argv[2] + '/log', 'ab', buffering=0) as file:
    for length in range(0, 30_000, 1000):
        file.write(b'x' * 1000)
        assert open(argv[1] + '/log', 'rb').read() == b'x' * (length + 1000), length
        time.sleep(0.001)
with open(argv[2] + '/log', 'r+b', buffering=0) as file:
    for value in range(10):
        file.seek(100); file.write(bytes([value]))
        assert open(argv[1] + '/log', 'rb').read()[100] == value, value
        time.sleep(0.001)
assert open(argv[1] + '/log', 'rb').read()[100] == 9
"""
    child(code, mnt, writable)


def test_a_folder_for_small_files_shows_what_has_changed_in_the_store(
    mounted: Mount, folder: Path, mnt: Path, child: Child
) -> None:
    fill(folder, {"f": b"one"})
    mounted("--freshness", "always", shown=("--small-files",))
    code = """
for number in range(5):
    open(argv[2] + '/new', 'w').write(f'version {number}')
    os.rename(argv[2] + '/new', argv[2] + '/f')
    assert open(argv[1] + '/f').read() == f'version {number}', number
"""
    child(code, mnt, folder)


def test_attributes_are_those_of_the_store_and_tell_where_a_file_is(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    fill(folder, {"d/f": b"x" * 5000})
    os.utime(folder / "d/f", ns=(1_600_000_000_123_456_789,) * 2)
    mounted()
    code = """
path = argv[1] + '/d/f'
info = os.stat(path)
print(info.st_size, info.st_mtime_ns, oct(info.st_mode), info.st_uid)
open(path).read()
print(os.getxattr(path, 'user.forebay.url').decode(), os.getxattr(path, 'user.forebay.cached_bytes').decode())
"""
    lines = child(code, mnt).stdout.decode().splitlines()
    assert lines[0] == f"5000 1600000000123456789 0o100644 {os.getuid()}"
    assert lines[1] == f"file://{folder}/d/f 5000"


def test_modes_owners_and_times_are_those_of_the_folder(mounted: Mount, folder: Path, mnt: Path, child: Child) -> None:
    fill(folder, {"d/secret": b"x", "d/open": b"y"})
    for name, mode in {"d/secret": 0o600, "d/open": 0o664, "d": 0o750}.items():
        (folder / name).chmod(mode)
        os.utime(folder / name, ns=(1, 1_700_000_000_123_456_789))
    mounted()
    says = "for p in argv[2:]: s = os.stat(f'{argv[1]}/{p}'); print(oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns)"
    ran = [child(says, where, "d", "d/secret", "d/open").stdout for where in (folder, mnt)]
    assert ran[0] == ran[1]


def test_an_empty_file_is_read_as_empty(mounted: Mount, folder: Path, mnt: Path, child: Child) -> None:
    fill(folder, {"empty": b""})
    mounted()
    assert child(READ, mnt / "empty").stdout == b""


def test_five_gibibytes_are_read_where_they_are_asked_for(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    size = 5 << 30
    with open(folder / "huge", "wb") as file:
        file.truncate(size)
        for offset in (0, 3 << 30, size - 4):
            file.seek(offset)
            file.write(b"mark")
    mounted()
    code = """
with open(argv[1], 'rb') as file:
    for offset in (5 * 2**30 - 4, 3 * 2**30, 2**32 + 17, 0):
        file.seek(offset)
        print(offset, file.read(4).hex())
"""
    lines = child(code, mnt / "huge").stdout.decode().splitlines()
    mark = b"mark".hex()
    assert lines == [f"{size - 4} {mark}", f"{3 << 30} {mark}", f"{2**32 + 17} 00000000", f"0 {mark}"]
    cached = forebay("fs", "stat", "/data/huge", "--json").json["cached_bytes"]
    assert cached < 64 << 20, "random reads fetch what they need"


def test_a_changed_file_is_seen_after_refresh_and_an_open_one_stays_what_it_was(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path
) -> None:
    fill(folder, {"f": b"old" * 1000})
    mounted()
    code = """
held = open(argv[1]); held.read(3)
assert not os.path.exists(argv[1] + '2')
print('open', flush=True); sys.stdin.readline()
print(open(argv[1]).read(3), held.read(3), open(argv[1] + '2').read())
"""
    with Reader(code, mnt / "f") as reader:
        assert reader.line() == "open"
        fill(folder, {"f": b"new" * 1000, "f2": b"second"})
        assert forebay("fs", "refresh", "/data").code == 0
        assert reader.end() == "new old second\n"


@pytest.mark.parametrize("freshness", ["always", "ttl"])
def test_a_change_is_seen_within_the_promise(mounted: Mount, folder: Path, mnt: Path, freshness: str) -> None:
    fill(folder, {"f": b"old", "gone": b""})
    mounted("--freshness", freshness, *(("--ttl", "300ms") if freshness == "ttl" else ()))
    code = """
import time
path = argv[1] + '/f'
assert open(path).read() == 'old' and os.path.exists(argv[1] + '/gone')
print('read', flush=True); sys.stdin.readline()
stop = time.monotonic() + 20
while open(path).read() != 'new' or os.path.exists(argv[1] + '/gone') or not os.path.exists(argv[1] + '/born'):
    assert argv[2] == 'ttl' and time.monotonic() < stop, 'stale'
    time.sleep(0.02)
"""
    with Reader(code, mnt, freshness) as reader:
        assert reader.line() == "read"
        fill(folder, {"f": b"new", "born": b""})
        (folder / "gone").unlink()
        reader.end()
