"""Caffe's formats: data in LMDB, which is mapped into memory, and trained nets by OpenCV's importer."""

from pathlib import Path

import pytest

from frameworks.conftest import Script, World

pytestmark = pytest.mark.timeout(600)

READ = """
import lmdb
from frameworks.caffe_format import message
lock = {"lock": True, "no": False}[argv[2]]
with lmdb.open(argv[1], readonly=True, lock=lock, readahead=False) as env, env.begin() as reading:
    seen = 0
    for key, value in reading.cursor():
        one = message("Datum").FromString(value)
        assert int(key) == seen and one.label == seen % 10 and one.data == bytes([seen]) * len(one.data), key
        seen += 1
    print(seen, env.stat()["entries"])
"""


@pytest.mark.parametrize("lock", ["no", "lock"])
@pytest.mark.parametrize("name", ["lmdb", "locked"])  # without a lock.mdb in the bucket, and with one
def test_lmdb_is_read_by_mmap_from_a_read_only_mount(data: Path, script: Script, name: str, lock: str) -> None:
    assert script(READ, data / name, lock) == "200 200\n"


def test_a_read_only_mount_answers_erofs_for_the_lock_file_and_lmdb_goes_on_without(data: Path, script: Script) -> None:
    code = """
import errno
for name in ("lmdb", "locked"):
    try: os.open(f"{argv[1]}/{name}/lock.mdb", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error: print(errno.errorcode[error.errno])
print(sorted(os.listdir(argv[1] + "/lmdb")))
"""
    assert script(code, data) == "EROFS\nEROFS\n['data.mdb']\n"


def test_lmdb_refuses_to_write_to_a_read_only_mount(data: Path, script: Script) -> None:
    code = "import lmdb\ntry: lmdb.open(argv[1])\nexcept lmdb.Error as error: print(error)"
    assert "Read-only file system" in script(code, data / "lmdb")


def test_lmdb_is_written_and_locked_on_a_mount_that_takes_writes(run_folder: Path, script: Script) -> None:
    write = """
import lmdb
with lmdb.open(argv[1], map_size=16 << 20) as env:
    for part in range(3):
        with env.begin(write=True) as writing:
            for number in range(100): writing.put(b"%08d" % (part * 100 + number), bytes([part]) * 3_000)
"""
    script(write, run_folder)
    look = """
import lmdb
with lmdb.open(argv[1], readonly=True, lock=argv[2] == "lock") as env, env.begin() as reading:
    print(sum(value == bytes([int(key) // 100]) * 3_000 for key, value in reading.cursor()))
"""
    assert script(look, run_folder, "no") == "300\n"
    assert script(look, run_folder, "lock") == "300\n"


def test_opencv_reads_a_caffemodel_and_computes_with_it(data: Path, script: Script) -> None:
    code = """
import cv2, numpy
from frameworks.caffe_format import BIAS, WEIGHTS
net = cv2.dnn.readNetFromCaffe(argv[1] + "/deploy.prototxt", argv[1] + "/net.caffemodel")
numbers = numpy.array([0.5, -1.0, 2.0], dtype=numpy.float32)
net.setInput(numbers.reshape(1, 3, 1, 1))
print(numpy.allclose(net.forward().ravel(), numpy.array(WEIGHTS) @ numbers + BIAS))
"""
    assert script(code, data / "caffe") == "True\n"


def test_a_caffemodel_that_is_not_cached_reads_whole(data: Path, world: World, script: Script) -> None:
    world.forebay("fs", "free", "/data/sets/caffe")
    code = "print(os.path.getsize(argv[1]), len(open(argv[1], 'rb').read()))"
    assert script(code, data / "caffe/net.caffemodel") == "94 94\n"
