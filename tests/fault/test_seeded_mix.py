"""A real S3 server that goes wrong in every way that can be found out, while many read: right bytes, or a right error.

What cannot be found out is not in the mix: S3 sends no checksum of the bytes it sends, so a bit that is flipped in a
body, with all its headers right, is believed.  TCP's sums and TLS guard the wire, as they do for every client of S3.
"""

import asyncio
import errno
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from fault.conftest import BUCKET
from forebay.cache.cache import Cache
from forebay.cache.pages import PAGE_BYTES
from forebay.clock import SystemClock
from forebay.config.settings import CacheDir, Settings
from forebay.errors import FsError
from forebay.testing.daemons import wait_until
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import (
    BEFORE_HEADERS,
    Cut,
    Fault,
    Flip,
    Late,
    OtherHeaders,
    OtherRange,
    OtherTarget,
    Refuse,
    Rule,
    Script,
    Short,
    Stall,
    Trickle,
    WrongLength,
    reset,
)
from forebay.testing.rig import read_all, read_piece
from forebay.testing.seaweed import SeaweedS3
from forebay.units import KIB, MIB
from forebay.vfs.control import ControlDb
from forebay.vfs.entries import FileEntry, MountOptions
from forebay.vfs.filesystem import FileSystem

Result = TypeVar("Result")

SEED = 20_251
READS = 10_000
READERS = 25
DEADLINE_S = 2.0
MARGIN_S = 5.0  # for a busy machine
CAPACITY = 24 * MIB  # of about 70: most is evicted again and again
READ_BYTES_MAX = 300 * KIB
SICK_SHARE = 0.02  # of the reads
REFRESH_SHARE, FREE_SHARE = 0.02, 0.02
LARGE = 2 * MIB  # from here on answers are streamed; such files are read a fourth as often

OBJECT, LISTING = r"/mix/", r"list-type=2"
OTHER = f"/{BUCKET}/mix/other"
OTHER_BYTES = 90 * KIB  # as many as most sick objects have: no length tells them apart

FAULTS: dict[str, tuple[Fault, str, set[int]]] = {
    "late": (Late(0.1), "", set()),
    "slow": (Trickle(8 * MIB), OBJECT, set()),
    "500": (Refuse(500, "InternalError"), "", {errno.EIO}),
    "503": (Refuse(503, "SlowDown"), "", {errno.EIO}),
    "429": (Refuse(429), "", {errno.EIO}),
    "reset": (reset(), "", {errno.EIO}),
    "reset after the headers": (reset(0), OBJECT, {errno.EIO}),
    "reset in the body": (reset(50), OBJECT, {errno.EIO}),
    "closed": (Cut(BEFORE_HEADERS), "", {errno.EIO}),
    "closed in the body": (Cut(5_000), OBJECT, {errno.EIO}),
    "closed in a listing": (Cut(100), LISTING, {errno.EIO}),
    "silent": (Stall(), "", {errno.ETIMEDOUT}),
    "silent in the body": (Stall(3), OBJECT, {errno.ETIMEDOUT}),
    "short": (Short(7), OBJECT, {errno.EIO}),
    "short in chunks": (Short(7, is_chunked=True), OBJECT, {errno.EIO}),
    "a short listing": (Short(30), LISTING, {errno.EIO}),
    "length too large": (WrongLength(9), OBJECT, {errno.EIO}),
    "length too small": (WrongLength(-9), OBJECT, {errno.EIO}),
    "another range": (OtherRange(16), OBJECT, {errno.EIO}),
    "the whole": (OtherRange(None), OBJECT, {errno.EIO}),
    "nonsense of a range": (OtherHeaders((("Content-Range", "nonsense"),)), OBJECT, {errno.EIO}),
    "another object": (OtherTarget(OTHER), OBJECT, {errno.ESTALE}),
    "a flipped bit in a listing": (Flip(0), LISTING, {errno.EIO}),
}
"""By name: what happens, to which requests, and the errnos that are right if it happens to each of them."""
RARE = {"silent": 0.004, "silent in the body": 0.004}  # each takes a third of the deadline
CHANCE = 0.015
NAMED = Refuse(503, "SlowDown", headers=(("Retry-After", "1"),))  # in the second half


SICK = {f"sick-{name.replace(' ', '-')}": name for name, (_, where, _) in FAULTS.items() if where != LISTING}
"""Objects that one fault hits at each GET, by the name of the object."""
IN_RANGES = {"slow", "another range", "the whole", "nonsense of a range"}
IN_RANGES |= {"reset in the body", "closed in the body", "silent in the body"}
"""The sick objects that are too large for one request."""
METADATA_ERRNOS = {errno.EIO, errno.ETIMEDOUT}  # the lookup of a sick object meets the mix
ANY_ERRNO = {errno.EIO, errno.ETIMEDOUT, errno.ESTALE}


def sick_rules() -> list[Rule]:
    return [Rule(FAULTS[name][0], "GET", f"/{key}$") for key, name in SICK.items()]


def mixed_rules() -> list[Rule]:
    """Each fault by chance, at bodies and listings; HEAD meets those that are not lies."""
    found = []
    for name, (fault, where, _) in FAULTS.items():
        found.append(Rule(fault, "" if where == "" else "GET", where, chance=RARE.get(name, CHANCE)))
    return found


def sources() -> dict[str, bytes]:
    """What the bucket holds, by name."""
    chance = random.Random(SEED)
    sizes = [0, 1, 4 * KIB - 1, 4 * KIB, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 2 * MIB, 2 * MIB + 1, 20 * MIB]
    sizes += [chance.randrange(64 * KIB) for _ in range(24)]
    sizes += [chance.randrange(64 * KIB, 700 * KIB) for _ in range(20)]
    sizes += [chance.randrange(MIB, 7 * MIB) for _ in range(6)]
    found = {f"file-{number:02}": chance.randbytes(size) for number, size in enumerate(sizes)}
    found |= {key: chance.randbytes(LARGE + 90 if name in IN_RANGES else OTHER_BYTES) for key, name in SICK.items()}
    return found | {"other": chance.randbytes(OTHER_BYTES)}


class Ran:
    """What came of the reads."""

    def __init__(self) -> None:
        self.read = 0
        self.errors: Counter[str] = Counter()
        self.of_sick: dict[str, set[int]] = {}  # errnos by fault


@asynccontextmanager
async def file_system(folder: Path, endpoint: str) -> AsyncIterator[FileSystem]:
    """The real one, over the bucket at /mix."""
    settings = Settings(
        home=folder,
        cache_dirs=(CacheDir(folder / "cache", CAPACITY),),
        cache_reserve=0.0,
        store_deadline_s=DEADLINE_S,
        readahead_bytes=4 * MIB,
    )
    clock, control = SystemClock(), ControlDb(folder / "control.db")
    fs = FileSystem(settings, control, Cache(settings, clock), clock)
    fs.cache.start()
    try:
        options = (("s3.endpoint", endpoint), ("s3.anonymous", "true"))
        how = MountOptions(options=options, freshness="immutable", policy="lru")
        await fs.mount("/mix", f"s3://{BUCKET}/mix", how)
        yield fs
    finally:
        await fs.close()
        control.close()


async def read_many(fs: FileSystem, files: dict[str, bytes], ran: Ran, chance: random.Random, count: int) -> None:
    """One reader's reads."""
    well = files.keys() - SICK.keys()
    small = sorted(name for name in well if len(files[name]) <= LARGE)
    large = sorted(name for name in well if len(files[name]) > LARGE)
    for _ in range(count):
        kind, turn = chance.random(), chance.random()
        among = [*SICK] if kind < SICK_SHARE else large if kind < SICK_SHARE + 0.04 else small
        name = chance.choice(among)
        offset, length = chance.randrange(len(files[name]) + 1), chance.randrange(1, READ_BYTES_MAX)
        if turn < REFRESH_SHARE:
            await attempt(fs.refresh(f"/mix/{name}"), ran, name)
        elif turn < REFRESH_SHARE + FREE_SHARE:
            await attempt(fs.free(f"/mix/{name}"), ran, name)
        data = await attempt(read_once(fs, name, offset, length), ran, name)
        if data is not None:
            assert data == files[name][offset : offset + length], (SEED, name, offset, length)
            ran.read += 1


async def read_once(fs: FileSystem, name: str, offset: int, length: int) -> bytes:
    entry = await fs.stat(f"/mix/{name}")
    assert isinstance(entry, FileEntry)
    file = fs.open(entry)
    try:
        return await read_piece(file, offset, length)
    finally:
        file.close()


async def attempt(call: Awaitable[Result], ran: Ran, name: str) -> Result | None:
    """What a call gives; None if it failed in one of the ways that are right."""
    failed: FsError | None = None
    try:
        async with asyncio.timeout(2 * DEADLINE_S + MARGIN_S):  # a lookup and a read, each with its deadline
            return await call
    except FsError as error:
        failed = error
    number = failed.errno or 0
    right = FAULTS[SICK[name]][2] | METADATA_ERRNOS if name in SICK else ANY_ERRNO
    assert number in right, (SEED, name, failed)
    ran.errors[f"{type(failed).__name__} {errno.errorcode[number]}"] += 1
    if name in SICK:
        ran.of_sick.setdefault(SICK[name], set()).add(number)
    return None


def check_cache_files(fs: FileSystem, files: dict[str, bytes]) -> int:
    """Compare every page on the disk with its source, and what is counted with what is there; how many pages."""
    pages, known = 0, {file.stored.path for file in fs.cache.files()}
    disk = fs.cache.disks[0]
    wait_until(lambda: {str(path) for path in disk.path.glob("files/??/*")} <= known, "evicted files are gone")
    assert disk.used_bytes == sum(file.stored.residency.resident_bytes for file in fs.cache.files()), SEED
    assert disk.used_bytes <= CAPACITY, SEED
    for file in fs.cache.files():
        if not file.stored.residency.mask:
            continue
        source = files[file.source.key.removeprefix("mix/")]
        on_disk = Path(file.stored.path).read_bytes()
        assert file.source.size == len(source)
        for page in itertools.chain.from_iterable(range(*run) for run in file.stored.residency.present()):
            span = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            assert on_disk[span] == source[span], (SEED, file, page)
            pages += 1
        for run in file.stored.residency.present():
            assert file.stored.wrong_pages(run) == [], (SEED, file)
    return pages


async def settled(fs: FileSystem) -> None:
    """Nothing is on its way from the store any more."""
    for file in fs.cache.files():
        await file.landed()


async def test_under_every_fault_a_read_is_right_or_a_right_error_and_nothing_wrong_is_kept(
    seaweed: SeaweedS3, proxy: FaultProxy, tmp_path: Path
) -> None:
    files = sources()
    with ThreadPoolExecutor(8) as pool:
        put = pool.map(lambda name: seaweed.request("PUT", f"/{BUCKET}/mix/{name}", files[name])[0], files)
        assert set(put) == {200}
    ran = Ran()
    async with file_system(tmp_path, proxy.endpoint) as fs:
        for half, named in enumerate(([], [Rule(NAMED, chance=CHANCE)])):
            proxy.script = Script(*sick_rules(), *named, *mixed_rules(), seed=SEED + half)
            chances = [random.Random(f"{SEED} {half} {reader}") for reader in range(READERS)]
            count = READS // READERS // 2
            async with asyncio.TaskGroup() as readers:
                for chance in chances:
                    readers.create_task(read_many(fs, files, ran, chance, count))
        await settled(fs)
        assert check_cache_files(fs, files) > 0

        proxy.script = Script()
        for name, data in files.items():
            entry = await fs.stat(f"/mix/{name}")
            assert isinstance(entry, FileEntry)
            file = fs.open(entry)
            assert await read_all(file) == data, (SEED, name)
            file.close()
        await settled(fs)
        assert check_cache_files(fs, files) > 0
        traffic = fs.counters()

    print(f"seed {SEED}: {ran.read} reads gave their bytes, errors {dict(ran.errors)}")
    print(f"{len(proxy.seen)} requests, faults {dict(proxy.did)}")
    print(f"cache {traffic}")
    assert proxy.did.keys() == {type(fault).__name__ for fault, _, _ in FAULTS.values()}
    for name in SICK.values():
        assert FAULTS[name][2] <= ran.of_sick.get(name, set()), (SEED, name)
    assert traffic["files_evicted"] > 0


async def test_a_flipped_bit_in_a_body_is_believed_for_nothing_in_the_answer_tells_it(
    seaweed: SeaweedS3, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The limit of the promise, and why `Flip` of a body is not in the mix."""
    assert seaweed.request("PUT", f"/{BUCKET}/mix/flipped", b"0123456789")[0] == 200
    proxy.script = Script(Rule(Flip(-1), "GET", "/mix/flipped$"))
    async with file_system(tmp_path, proxy.endpoint) as fs:
        assert await read_once(fs, "flipped", 0, 10) == b"0123456788"
