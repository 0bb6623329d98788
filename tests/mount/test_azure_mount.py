"""The founding use over Azure Blob Storage, against Microsoft's own emulator, through a real mount."""

import itertools
import random
import subprocess
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.stores.base import Store
from forebay.stores.registry import open_store
from forebay.testing.azurite import Azurite
from forebay.testing.daemons import RunForebay
from forebay.testing.slowproxy import SlowProxy
from mount.conftest import Child, Reader

FILES = {
    f"train/n{index % 4:02d}/{index:03d}.jpg": random.Random(index).randbytes(9_000 + index) for index in range(24)
}
FILES |= {"labels.csv": b"a,b\n1,2\n", "big.bin": random.Random(99).randbytes(20_000_000), "zero": b""}
_numbers = itertools.count()


@pytest.fixture
async def container(azurite: Azurite) -> str:
    name = f"imagenet-{next(_numbers)}"
    azurite.make_container(name)
    return name


@pytest.fixture
async def data(azurite: Azurite, container: str, tmp_path: Path) -> None:
    """Every file of `FILES` in the container, and an empty folder as Hadoop makes it."""
    store = opened(azurite, container, tmp_path)
    for key, content in FILES.items():
        await store.put(key, content)
    await store.close()
    azurite.put(container, "hollow", b"", hdi_isfolder="true")
    azurite.put(container, "train", b"", hdi_isfolder="true")


def opened(azurite: Azurite, container: str, home: Path) -> Store:
    return open_store(f"az://{container}", azurite.options, settings=Settings(home=home)).store


def words(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("--option", f"{name}={value}")]


def hadoop(azurite: Azurite) -> dict[str, str]:
    """Options by the names that users of Hadoop know."""
    key = f"fs.azure.account.key.{azurite.account}.dfs.core.windows.net"
    return {key: azurite.key, "azure.endpoint": azurite.endpoint}


def mount(forebay: RunForebay, url: str, options: dict[str, str], mnt: Path) -> None:
    for command in (
        ("fs", "mkdir", "/training-data"),
        ("fs", "mount", "/training-data/imagenet/", url, *words(options)),
        ("fuse", "mount", str(mnt), "/training-data"),
    ):
        ran = forebay(*command)
        assert ran.code == 0, ran.err


@pytest.mark.parametrize("form", ["az://{}/", "abfs://{}@devstoreaccount1.dfs.core.windows.net/"])
@pytest.mark.usefixtures("data")
def test_someone_with_data_in_azure_reads_it_as_a_folder(
    azurite: Azurite, container: str, forebay: RunForebay, forebay_home: Path, mnt: Path, form: str
) -> None:
    mount(forebay, form.format(container), azurite.options if form.startswith("az:") else hadoop(azurite), mnt)
    walk, out = mnt / "imagenet", mnt.parent / "out"
    listed = subprocess.run(["ls", "-F", walk], capture_output=True, timeout=60, check=True).stdout.split()
    assert listed == [b"big.bin", b"hollow/", b"labels.csv", b"train/", b"zero"]
    found = subprocess.run(["find", ".", "-type", "f"], cwd=walk, capture_output=True, timeout=60, check=True).stdout
    assert sorted(found.decode().split()) == sorted(f"./{key}" for key in FILES)
    subprocess.run(["cp", "-r", walk, out], timeout=60, check=True)
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == FILES
    assert (out / "hollow").is_dir()
    told = b"".join(ran.out + ran.err.encode() for ran in (forebay("fs", "mounts", "--json"), forebay("status")))
    told += b"".join(path.read_bytes() for path in forebay_home.glob("*.log*"))
    assert azurite.key.encode() not in told
    assert forebay("fuse", "unmount", str(mnt)).code == 0


@pytest.mark.usefixtures("data")
def test_a_folder_of_hadoop_is_found_by_its_name_alone(
    azurite: Azurite, container: str, forebay: RunForebay, mnt: Path, child: Child
) -> None:
    mount(forebay, f"az://{container}/", azurite.options, mnt)
    code = "for name in ('hollow', 'train', 'zero'): print(os.path.isdir(f'{argv[1]}/{name}'))"
    assert child(code, mnt / "imagenet").stdout.split() == [b"True", b"True", b"False"]


@pytest.mark.usefixtures("data")
def test_a_blob_that_was_overwritten_is_seen_after_refresh(
    azurite: Azurite, container: str, forebay: RunForebay, mnt: Path, child: Child
) -> None:
    mount(forebay, f"az://{container}/", azurite.options, mnt)
    read = "print(open(argv[1]).read().strip())"
    path = mnt / "imagenet/labels.csv"
    assert child(read, path).stdout == b"a,b\n1,2\n"
    azurite.put(container, "labels.csv", b"a,b\n3,4\n")  # of the same size
    assert forebay("fs", "refresh", "/training-data/imagenet").code == 0
    assert child(read, path).stdout == b"a,b\n3,4\n"


@pytest.mark.usefixtures("data")
def test_a_read_under_way_while_the_blob_is_overwritten_gives_its_own_bytes_or_estale(
    azurite: Azurite, container: str, forebay: RunForebay, mnt: Path
) -> None:
    code = """
import errno
file = os.open(argv[1], os.O_RDONLY)
got = os.read(file, 65536)
print('begun', flush=True)
sys.stdin.readline()
try:
    while piece := os.read(file, 1 << 20): got += piece
    end = 'end'
except OSError as error: end = errno.errorcode[error.errno]
print(end, len(got))
open(argv[2], 'wb').write(got)
"""
    got = mnt.parent / "got"
    with SlowProxy(azurite.port, rtt_ms=1, mbps=10) as proxy:
        far = azurite.options | {"azure.endpoint": f"{proxy.endpoint}/{azurite.account}"}
        mount(forebay, f"az://{container}/", far, mnt)
        with Reader(code, mnt / "imagenet/big.bin", got) as reader:
            assert reader.line() == "begun"
            azurite.put(container, "big.bin", b"\0" * len(FILES["big.bin"]))
            end, size = reader.end().split()
    assert end in ("end", "ESTALE")
    assert (end == "ESTALE") == (int(size) < len(FILES["big.bin"]))
    assert got.read_bytes() == FILES["big.bin"][: int(size)]


@pytest.mark.usefixtures("data")
def test_what_is_copied_in_made_and_removed_is_so_in_the_store(
    azurite: Azurite, container: str, forebay: RunForebay, mnt: Path, tmp_path: Path
) -> None:
    mount(forebay, f"az://{container}/", azurite.options, mnt)
    here = tmp_path / "new.bin"
    here.write_bytes(FILES["big.bin"])
    for command in (
        ("fs", "cp", f"file://{here}", "/training-data/imagenet/new.bin"),
        ("fs", "mkdir", "/training-data/imagenet/made"),
        ("fs", "rm", "/training-data/imagenet/zero"),
        ("fs", "rm", "-r", "/training-data/imagenet/train"),
        ("fs", "rmdir", "/training-data/imagenet/hollow"),
    ):
        ran = forebay(*command)
        assert ran.code == 0, ran.err
    assert forebay("fs", "refresh", "/training-data/imagenet").code == 0
    assert forebay("fs", "cat", "/training-data/imagenet/new.bin").out == FILES["big.bin"]
    listed = subprocess.run(["ls", "-F", mnt / "imagenet"], capture_output=True, timeout=60, check=True).stdout.split()
    assert listed == [b"big.bin", b"labels.csv", b"made/", b"new.bin"]


def test_a_mount_that_cannot_work_is_refused_with_the_reason(azurite: Azurite, forebay: RunForebay) -> None:
    ran = forebay("fs", "mount", "/imagenet", "az://not-there/", *words(azurite.options))
    assert ran.code == 1
    assert "no such container" in ran.err
    assert azurite.key not in ran.err
