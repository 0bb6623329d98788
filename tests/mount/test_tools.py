"""Programs that people use every day write into the folder `writable`, each as a process of its own."""

import os
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mount.conftest import Child, Reader, time_step_ns

Tool = Callable[..., str]
TOOL_WAIT_S = 60.0
LONG_AGO = "2001-02-03T04:05:06.123456789Z"
LONG_AGO_NS = 981_173_106_123_456_789


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Run a program, which must end well; what it printed."""
    environ = os.environ | {
        "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip

    def run(*words: str | Path, cwd: Path | None = None) -> str:
        ran = subprocess.run(
            list(map(str, words)),
            cwd=cwd or tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TOOL_WAIT_S,
            check=False,
        )
        assert ran.returncode == 0, f"{words[0]}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        return ran.stdout

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree on a plain disk: files of several sizes and modes, folders, links, old times, names with blanks."""
    root = tmp_path / "source"
    for number in range(20):
        path = root / f"folder {number % 4}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * number * 5_000)
        os.utime(path, ns=(LONG_AGO_NS + number, LONG_AGO_NS + number))
    (root / "large").write_bytes(os.urandom(9_000_000))
    (root / "empty").touch()
    (root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("folder 1/file-1")
    (root / "dangling").symlink_to("nowhere")
    os.utime(root / "folder 2", ns=(LONG_AGO_NS, LONG_AGO_NS))
    return root


# ---------------------------------------------------------------- copies


def test_cp_a_keeps_everything_and_rsync_finds_nothing_to_do(writable: Path, source: Path, tool: Tool) -> None:
    tool("cp", "-a", source, writable / "copy")
    assert tool("rsync", "-an", "--checksum", "--itemize-changes", f"{source}/", writable / "copy") == ""
    assert tool("sh", writable / "copy/run.sh") == "ran\n"


def test_extended_attributes_of_users_are_copied_and_no_others(
    writable: Path, source: Path, tool: Tool, tmp_path: Path
) -> None:
    os.setxattr(source / "large", "user.of", b"mine")
    tool("rsync", "-aX", f"{source}/", writable / "copy")
    tool("rsync", "-aX", f"{writable}/copy/", writable / "again")
    tool("mv", writable / "again", tmp_path / "out")
    tool("mv", tmp_path / "out", writable / "in")
    assert os.listxattr(writable / "in" / "large") == ["user.of"]
    assert os.getxattr(writable / "in" / "large", "user.of") == b"mine"


def test_a_second_rsync_moves_nothing(writable: Path, source: Path, tool: Tool) -> None:
    first = tool("rsync", "-a", "--itemize-changes", f"{source}/", writable / "copy")
    assert first.count(">f+++++++++") == 23
    assert tool("rsync", "-a", "--itemize-changes", f"{source}/", writable / "copy") == ""
    (source / "empty").write_text("no more")
    second = tool("rsync", "-a", "--itemize-changes", f"{source}/", writable / "copy")
    assert [line.split()[-1] for line in second.splitlines() if line.startswith(">f")] == ["empty"]
    tool("diff", "-r", "--no-dereference", source, writable / "copy")


def test_tar_unpacks_what_it_then_finds_equal(writable: Path, source: Path, tool: Tool, tmp_path: Path) -> None:
    tool("tar", "-cf", tmp_path / "all.tar", "-C", source, ".")
    tool("tar", "-xpf", tmp_path / "all.tar", "-C", writable)
    assert tool("tar", "-df", tmp_path / "all.tar", "-C", writable) == ""


def test_mv_moves_folders_within_and_in_and_out(writable: Path, source: Path, tool: Tool, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    tool("cp", "-a", source, kept)
    tool("mv", source, writable / "in")
    tool("mkdir", writable / "deep")
    tool("mv", writable / "in", writable / "deep" / "other name")
    assert tool("ls", writable).split() == ["deep"]
    tool("diff", "-r", "--no-dereference", kept, writable / "deep" / "other name")
    tool("mv", writable / "deep" / "other name", tmp_path / "out")
    assert tool("rsync", "-an", "--checksum", "--itemize-changes", f"{kept}/", tmp_path / "out") == ""
    assert tool("ls", writable / "deep") == ""


def test_shutil_copies_over_its_own_copy(writable: Path, write_mode: str, source: Path, child: Child) -> None:
    code = """
import shutil
for _ in range(2): print(shutil.copy(argv[1], argv[2]))
shutil.copy2(argv[1], argv[2])
print(os.stat(argv[2]).st_mtime_ns == os.stat(argv[1]).st_mtime_ns // int(argv[3]) * int(argv[3]))
shutil.copytree(os.path.dirname(argv[1]), argv[2] + '.tree', symlinks=True)
shutil.rmtree(argv[2] + '.tree')
"""
    assert child(code, source / "large", writable / "copy", str(time_step_ns(write_mode))).stdout.endswith(b"True\n")
    assert (writable / "copy").read_bytes() == (source / "large").read_bytes()
    assert [path.name for path in writable.iterdir()] == ["copy"]


# ---------------------------------------------------------------- editors and small tools


@pytest.mark.parametrize("backupcopy", ["no", "yes"])  # a new file is renamed over the old one, or it is overwritten
def test_vim_edits_and_leaves_a_backup(writable: Path, tool: Tool, backupcopy: str) -> None:
    text = writable / "text"
    tool("sh", "-c", 'printf "one\\ntwo\\n" > "$0"', text)
    tool("chmod", "640", text)
    options = f"set backup backupskip= backupcopy={backupcopy}"
    tool("vim", "-es", "-u", "NONE", "-c", options, "-c", "%s/one/three/", "-c", "wq", text)
    assert text.read_text() == "three\ntwo\n"
    assert (writable / "text~").read_text() == "one\ntwo\n"
    assert tool("stat", "-c", "%a", text) == "640\n"
    assert sorted(path.name for path in writable.iterdir()) == ["text", "text~"], "no swap file is left"


def test_sed_edits_in_place(writable: Path, tool: Tool) -> None:
    text = writable / "text"
    tool("sh", "-c", 'printf "one\\ntwo\\n" > "$0"', text)
    tool("chmod", "640", text)
    tool("sed", "-i", "s/one/three/", text)
    tool("sed", "-i.old", "s/two/four/", text)
    assert text.read_text() == "three\nfour\n"
    assert (writable / "text.old").read_text() == "three\ntwo\n"
    assert tool("stat", "-c", "%a", text) == "640\n"
    assert sorted(path.name for path in writable.iterdir()) == ["text", "text.old"]


def test_touch_chmod_and_ln_set_what_ls_shows(writable: Path, write_mode: str, tool: Tool) -> None:
    tool("touch", "-d", LONG_AGO, writable / "file")
    tool("chmod", "u=rwx,go=", writable / "file")
    tool("mkdir", "-m", "750", writable / "folder")
    tool("ln", "-s", "file", writable / "link")
    kept = LONG_AGO_NS // time_step_ns(write_mode) * time_step_ns(write_mode) % 10**9
    assert tool("stat", "-c", "%a %y", writable / "file") == f"700 2001-02-03 04:05:06.{kept:09} +0000\n"
    assert tool("stat", "-c", "%a %F", writable / "folder") == "750 directory\n"
    assert tool("readlink", writable / "link") == "file\n"
    tool("ln", "-sfn", "folder", writable / "link")
    assert tool("readlink", writable / "link") == "folder\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_chown_sets_what_ls_shows(writable: Path, tool: Tool) -> None:
    tool("touch", writable / "file")
    tool("mkdir", writable / "folder")
    for name in ("file", "folder"):
        tool("chown", "daemon:bin", writable / name)  # HDFS keeps names
        assert tool("stat", "-c", "%U %G", writable / name) == "daemon bin\n"


def test_the_shell_overwrites_appends_and_cuts(writable: Path, tool: Tool) -> None:
    text = writable / "text"
    tool("sh", "-c", 'printf "a long line" > "$0"; printf "short" > "$0"', text)
    assert text.read_text() == "short"
    tool("sh", "-c", 'for n in 1 2 3; do printf "$n" >> "$0" & done; wait', text)
    assert sorted(text.read_text()) == sorted("short123"), "no append is lost"
    tool("truncate", "-s", "3", text)
    tool("truncate", "-s", "6", text)
    assert text.read_bytes() == b"sho\0\0\0"
    tool("sh", "-c", 'printf XY | dd of="$0" bs=1 seek=1 conv=notrunc', text)
    assert text.read_bytes() == b"sXY\0\0\0"


def test_tail_f_shows_lines_as_they_are_appended(writable: Path, child: Child) -> None:
    log = writable / "log"
    child("open(argv[1], 'w').write('first\\n')", log)
    follow = "os.execvp('tail', ['tail', '-n', '+1', '-f', '--pid', str(os.getppid()), argv[1]])"
    with Reader(follow, log) as tail:
        assert tail.line() == "first"
        for line in ("second", "third"):
            child("open(argv[1], 'a').write(argv[2] + '\\n')", log, line)
            assert tail.line() == line


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_lock_keeps_another_process_out_until_it_is_let_go(writable: Path, child: Child, call: str) -> None:
    hold = f"""
import fcntl
file = open(argv[1], 'w'); fcntl.{call}(file, fcntl.LOCK_EX); print('held', flush=True)
sys.stdin.readline(); fcntl.{call}(file, fcntl.LOCK_UN); print('free', flush=True); sys.stdin.readline()
"""
    ask = f"""
import fcntl
try: fcntl.{call}(open(argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('got it')
except OSError as error: print(errno.errorcode[error.errno])
"""
    lock = writable / call
    with Reader(hold, lock) as holder:
        assert holder.line() == "held"
        assert child(ask, lock).stdout == b"EAGAIN\n"
        assert holder.ask("let go") == "free"
        assert child(ask, lock).stdout == b"got it\n"


def test_a_mount_refuses_hard_links_and_devices(writable: Path, write_mode: str, child: Child) -> None:
    code = """
import stat
open(argv[1] + '/file', 'w').close()
for make in (lambda: os.link(argv[1] + '/file', argv[1] + '/link'),
             lambda: os.mknod(argv[1] + '/device', stat.S_IFCHR | 0o600, os.makedev(1, 3))):
    try: make(); print('made')
    except OSError as error: print(errno.errorcode[error.errno])
"""
    link, device = child(code, writable).stdout.decode().split()
    assert link == ("made" if write_mode == "disk" else "EPERM")
    assert device == ("made" if write_mode == "disk" and os.geteuid() == 0 else "EPERM")


# ---------------------------------------------------------------- whole programs


def test_git_clones_commits_packs_and_finds_no_damage(writable: Path, source: Path, tool: Tool) -> None:
    tool("git", "init", "-q", "-b", "main", cwd=source)
    tool("git", "add", "-A", cwd=source)
    tool("git", "commit", "-qm", "one", cwd=source)
    tool("git", "clone", "-q", f"file://{source}", writable / "clone")
    clone = writable / "clone"
    assert tool("git", "status", "--porcelain", cwd=clone) == ""
    tool("sh", "-c", "echo more > empty && chmod -x run.sh && git add -A && git commit -qm two", cwd=clone)
    tool("git", "checkout", "-q", "-b", "branch", "HEAD~", cwd=clone)
    tool("git", "merge", "-q", "main", cwd=clone)
    tool("git", "gc", "-q", cwd=clone)
    assert tool("git", "status", "--porcelain", cwd=clone) == ""
    assert tool("git", "log", "--format=%s", cwd=clone) == "two\none\n"
    tool("git", "fsck", "--strict", cwd=clone)
    said = tool("sh", "-c", "touch .git/index.lock; git add -A 2>&1 || echo locked", cwd=clone)
    assert said.endswith("locked\n"), "whoever else works in the clone is kept out"


@pytest.mark.parametrize("journal", ["delete", "truncate", "wal"])
def test_sqlite_commits_rolls_back_and_keeps_writers_apart(writable: Path, child: Child, journal: str) -> None:
    database = writable / f"{journal}.db"
    connect = "import sqlite3; db = sqlite3.connect(argv[1], timeout=0, isolation_level=None)\n"
    begin = f"""{connect}
assert db.execute('PRAGMA journal_mode={journal}').fetchone() == ('{journal}',)
"""
    fill = """
db.execute('CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)')
for part in range(5):
    db.execute('BEGIN')
    db.executemany('INSERT INTO t VALUES (?, ?)', [(part * 100 + n, bytes([part]) * 900) for n in range(100)])
    db.execute('COMMIT')
db.execute('BEGIN'); db.execute('DELETE FROM t'); db.execute('ROLLBACK')
"""
    child(begin + fill, database)
    hold = "db.execute('BEGIN IMMEDIATE'); db.execute('UPDATE t SET data = NULL'); print('held', flush=True)\n"
    look = """
print(db.execute('SELECT count(*), count(data) FROM t').fetchone(), *db.execute('PRAGMA integrity_check').fetchone())
try: db.execute('DELETE FROM t'); print('deleted')
except sqlite3.OperationalError as error: print(error)
"""
    with Reader(begin + hold + "sys.stdin.readline()", database) as writer:
        assert writer.line() == "held"
        locked = b"(500, 500) ok\ndatabase is locked\n"
        assert child(connect + look, database).stdout == locked
    # The writer was killed in its transaction, which is undone by the next who opens.
    assert child(connect + look + "db.execute('VACUUM')", database).stdout == b"(500, 500) ok\ndeleted\n"


def test_pip_installs_a_wheel_that_can_be_imported(writable: Path, child: Child, tmp_path: Path) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny/__init__.py", "VALUE = 7\n")
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    install = """
import runpy
sys.argv = ['pip', 'install', '-q', '--no-index', '--no-deps', '--upgrade', '--target', *argv[1:]]
runpy.run_module('pip', run_name='__main__')
"""
    for _ in range(2):
        child(install, writable / "site", wheel)
    assert child("sys.path.insert(0, argv[1]); import tiny; print(tiny.VALUE)", writable / "site").stdout == b"7\n"


# ---------------------------------------------------------------- data and checkpoints


def test_numpy_saves_and_changes_an_array_through_a_mapping(writable: Path, child: Child) -> None:
    child("import numpy; numpy.save(argv[1], numpy.arange(300_000))", writable / "a.npy")
    child("import numpy; a = numpy.load(argv[1], mmap_mode='r+'); a[::2] = 0; a.flush()", writable / "a.npy")
    assert child("import numpy; print(numpy.load(argv[1]).sum())", writable / "a.npy").stdout == b"22500000000\n"


def test_h5py_appends_and_changes_in_place(writable: Path, child: Child) -> None:
    file = writable / "data.h5"
    child(
        """
import h5py, numpy
with h5py.File(argv[1], 'w') as file:
    file.create_dataset('x', data=numpy.zeros((100, 64)), maxshape=(None, 64), chunks=(10, 64))
""",
        file,
    )
    change = """
import h5py
with h5py.File(argv[1], 'r+') as file:
    x = file['x']; x.resize(x.shape[0] + 50, axis=0); x[-50:] = 1; x[:10] = 2
    file.attrs['epoch'] = file.attrs.get('epoch', 0) + 1
"""
    for _ in range(2):
        child(change, file)
    look = "import h5py; f = h5py.File(argv[1]); print(f['x'].shape[0], int(f['x'][...].sum() / 64), f.attrs['epoch'])"
    assert child(look, file).stdout == b"200 120 2\n"


def test_parquet_is_written_and_read(writable: Path, child: Child) -> None:
    child(
        """
import pyarrow as pa, pyarrow.parquet as pq
table = pa.table({'n': list(range(50_000)), 'part': ['a', 'b'] * 25_000})
pq.write_table(table, argv[1] + '/one.parquet', row_group_size=10_000)
pq.write_to_dataset(table, argv[1] + '/set', partition_cols=['part'])
""",
        writable,
    )
    look = """
import pyarrow.parquet as pq
print(pq.read_table(argv[1] + '/one.parquet')['n'].to_pylist() == list(range(50_000)))
print(pq.read_table(argv[1] + '/set', filters=[('part', '=', 'b')]).num_rows)
"""
    assert child(look, writable).stdout == b"True\n25000\n"


def test_torch_saves_over_a_checkpoint_and_loads_the_new_one(writable: Path, child: Child) -> None:
    save = """
import torch
for epoch in range(3):
    smaller = torch.full((1200 - 100 * epoch, 500), float(epoch))
    torch.save({'epoch': epoch, 'w': smaller}, argv[1])
    one = torch.load(argv[1], weights_only=True)
    assert one['epoch'] == epoch and bool((one['w'] == epoch).all())
torch.save(one, argv[1] + '.tmp'); os.replace(argv[1] + '.tmp', argv[1])
"""
    child(save, writable / "model.pt")
    look = "import torch; print(torch.load(argv[1], mmap=True, weights_only=True)['w'].sum().item())"
    assert child(look, writable / "model.pt").stdout == b"1000000.0\n"
    assert [path.name for path in writable.iterdir()] == ["model.pt"]


def test_keras_saves_over_a_model_and_loads_the_new_one(writable: Path, child: Child) -> None:
    code = """
os.environ['KERAS_BACKEND'] = 'torch'
import keras, numpy
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
for value in (1.0, 2.0):
    model.set_weights([numpy.full(one.shape, value) for one in model.get_weights()])
    model.save(argv[1] + '/model.keras'); model.save_weights(argv[1] + '/model.weights.h5')
again = keras.models.load_model(argv[1] + '/model.keras')
print(again.get_weights()[0].sum())
again.load_weights(argv[1] + '/model.weights.h5')
print(again.get_weights()[0].sum())
"""
    assert child(code, writable).stdout == b"64.0\n64.0\n"


def test_who_works_in_a_folder_while_one_above_is_renamed_finds_all_that_he_made(writable: Path, child: Child) -> None:
    work = """
import select
os.chdir(argv[1])
print("here", flush=True)
made = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    os.mkdir(f"folder{made}", 0o700)
    os.symlink("there", f"link{made}")
    open(f"file{made}", "x").close()
    os.chmod(f"file{made}", 0o600)
    os.chmod("old", 0o600 + made % 8)
    made += 1
print(made)
"""
    look = """
os.chdir(argv[1] + "/4/d")
made = int(argv[2])
expected = {f"{kind}{number}" for kind in ("folder", "link", "file") for number in range(made)}
assert set(os.listdir()) == expected | {"old"} | set(map(str, range(50)))
assert {os.stat(f"folder{number}").st_mode & 0o777 for number in range(made)} == {0o700}
assert {os.stat(f"file{number}").st_mode & 0o777 for number in range(made)} == {0o600}
assert os.stat("old").st_mode & 0o777 == 0o600 + (made - 1) % 8
assert os.listdir(argv[1]) == ["4"]
"""
    folder = writable / "1" / "d"
    child("os.makedirs(argv[1])\nfor name in [*range(50), 'old']: open(f'{argv[1]}/{name}', 'w').close()", folder)
    with Reader(work, folder) as worker:
        assert worker.line() == "here"
        for number in range(1, 4):
            time.sleep(0.3)  # who meets two renames by one call may be told so
            child("os.rename(argv[1], argv[2])", writable / str(number), writable / str(number + 1))
        made = int(worker.end())
    child(look, writable, str(made))
    assert made > 0
