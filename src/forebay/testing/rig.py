"""A file system over stores in memory, in a folder of its own: what tests and benches of cache and vfs stand on.

async with Rig(folder) as rig:
    await rig.memory("photos").put("a/1.jpg", b"...")
    await rig.mount("/photos", "photos")
    assert await rig.read("/photos/a/1.jpg") == b"..."
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forebay import paths
from forebay.cache.cache import Cache
from forebay.cache.cachedfile import Source
from forebay.cache.policy import Dataset
from forebay.clock import FakeClock
from forebay.config.settings import CacheDir, Settings
from forebay.errors import IsADirectory
from forebay.observe.traffic import Traffic
from forebay.stores.base import Store
from forebay.stores.memory import MemoryStore
from forebay.testing.faulty_store import FaultyStore
from forebay.types import ObjectMeta
from forebay.units import GIB, MIB
from forebay.vfs.control import ControlDb
from forebay.vfs.drafts import AnyFile
from forebay.vfs.entries import Entry, FileEntry, Mount, MountOptions
from forebay.vfs.filesystem import FileSystem

READ_BYTES = MIB


class Rig:
    """See the module.  `mem://NAME/prefix` means the store of that name in `stores`, made when first asked for."""

    def __init__(self, folder: Path, *, capacity_bytes: int = GIB, page_keys: int = 1_000, **settings: Any) -> None:  # noqa: ANN401
        folder.mkdir(parents=True, exist_ok=True)
        settings.setdefault("cache_dirs", (CacheDir(folder / "cache", capacity_bytes),))
        settings.setdefault("cache_reserve", 0.0)
        self.settings = Settings(home=folder, **settings)
        self.clock = FakeClock()
        self.stores: dict[str, FaultyStore] = {}
        self._page_keys = page_keys

    def store(self, name: str) -> FaultyStore:
        """The store `mem://NAME`, as mounts see it: with the faults that its script holds."""
        if name not in self.stores:
            self.stores[name] = FaultyStore(MemoryStore(name, page_keys=self._page_keys, clock=self.clock))
        return self.stores[name]

    def memory(self, name: str) -> MemoryStore:
        """The store `mem://NAME` without its faults."""
        inner = self.store(name).inner
        assert isinstance(inner, MemoryStore)
        return inner

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        name, _, prefix = url.removeprefix("mem://").partition("/")
        return self.store(name), prefix and prefix.rstrip("/") + "/"

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    def begin(self) -> None:
        """Assemble, as the daemon does."""
        self.control = ControlDb(self.settings.home / "control.db")
        self.cache = Cache(self.settings, self.clock)
        self.fs = FileSystem(self.settings, self.control, self.cache, self.clock, open_store=self._open_store)
        self.fs.restore()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> None:
        """Stop, as the daemon does."""
        await self.fs.close()
        self.control.close()

    async def restart(self) -> None:
        """Stop and begin again on the same folders; the stores stay as they are."""
        await self.end()
        self.begin()

    async def put(self, name: str, key: str, data: bytes) -> ObjectMeta:
        """Put an object behind the file system's back."""
        return await self.memory(name).put(key, data)

    async def mount(self, path: str, place: str, **options: Any) -> Mount:  # noqa: ANN401
        """Mount `mem://PLACE` at a path."""
        await self.fs.mkdir(paths.split(path)[0], parents=True)
        return await self.fs.mount(path, f"mem://{place}", MountOptions(**options))

    async def stat_file(self, path: str) -> FileEntry:
        """The entry of a file."""
        entry: Entry = await self.fs.stat(path)
        if not isinstance(entry, FileEntry):
            raise IsADirectory(f"{path} is a folder", path=path)
        return entry

    async def read(self, path: str) -> bytes:
        """The whole of a file, as a frontend reads it."""
        file = self.fs.open(await self.stat_file(path))
        try:
            return await read_all(file)
        finally:
            file.close()

    async def landed(self) -> None:
        """Wait until nothing is on its way from a store any more, and save the cache's index."""
        for file in self.cache.files():
            await file.landed()
        await self.cache.save()

    async def names(self, path: str) -> list[str]:
        """The names in a folder, in the order of its listing."""
        listing = await self.fs.open_folder(path)
        found: list[str] = []
        while True:
            await listing.wait(len(found))
            if len(found) == len(listing):
                return found
            found.append(listing[len(found)][0])

    async def source(self, name: str, key: str, *, dataset: str = "", policy: str = "keep") -> Source:
        """An object as the cache knows it, for tests below the file system."""
        meta = await self.memory(name).head(key)
        return source_of(self.store(name), meta, dataset=dataset, policy=policy)


def source_of(store: Store, meta: ObjectMeta, *, dataset: str = "", policy: str = "keep") -> Source:
    """An object's version as the cache knows it."""
    return Source(store, meta.key, meta.size, meta.version, Dataset(store.location, dataset), policy, Traffic())


async def read_piece(file: AnyFile, offset: int, size: int) -> bytes:
    """One read as FUSE does it: at once if it can be, else waiting."""
    data = file.read_now(offset, size)
    return bytes(memoryview(await file.read(offset, size) if data is None else data))


async def read_all(file: AnyFile, piece_bytes: int = READ_BYTES) -> bytes:
    """The whole file in order, piece by piece."""
    whole = bytearray()
    while piece := await read_piece(file, len(whole), piece_bytes):
        whole += piece
    return bytes(whole)
