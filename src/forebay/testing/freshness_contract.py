# ruff: noqa: D102 - tests read as sentences
"""What every store must let the file system promise about changes: one promise of docs/SEMANTICS.md is one test.

Inherit it beside `StoreContract` or `ReadingContract`, with the same fixture `store`.  Objects are changed behind the
file system's back; its clock is a fake one, so that a promise of a minute is not waited for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from forebay.cache.cache import Cache
from forebay.clock import FakeClock
from forebay.config.settings import CacheDir, Settings
from forebay.errors import NotFound, StaleVersion
from forebay.stores.base import Store
from forebay.testing.rig import read_all
from forebay.testing.store_contract import pattern
from forebay.types import Buffer, ObjectMeta
from forebay.units import GIB, MIB
from forebay.vfs.control import ControlDb
from forebay.vfs.entries import FileEntry, FolderEntry, MountOptions
from forebay.vfs.filesystem import FileSystem

TTL_S = 60.0


class View:
    """A file system with the store mounted at /m, and the clock that its promises go by."""

    def __init__(self, fs: FileSystem, clock: FakeClock) -> None:
        self.fs = fs
        self.clock = clock

    async def read(self, path: str) -> bytes:
        """The whole of a file, as it is now."""
        entry = await self.fs.stat(path)
        assert isinstance(entry, FileEntry)
        file = self.fs.open(entry)
        try:
            return await read_all(file)
        finally:
            file.close()

    async def names(self, path: str) -> list[str]:
        """The sorted names in a folder."""
        listing = await self.fs.open_folder(path)
        found: list[str] = []
        while True:
            await listing.wait(len(found))
            if len(found) == len(listing):
                return sorted(found)
            found.append(listing[len(found)][0])


class FreshnessContract:
    """See the module."""

    tells_changes_within_a_second = True  # its versions do, even if the size stays
    empty_folders_go = True  # with their last object

    if TYPE_CHECKING:  # of the contract beside it

        async def fill(self, store: Store, key: str, data: Buffer) -> ObjectMeta: ...

    async def drop(self, store: Store, key: str) -> None:
        """Remove an object; to be overridden where that is not done by `delete`."""
        await store.delete(key)

    @pytest.fixture
    def folder_of_cache(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Not in `tmp_path`, which may be the store."""
        return tmp_path_factory.mktemp("freshness")

    @contextlib.asynccontextmanager
    async def view(self, folder: Path, store: Store, freshness: str) -> AsyncIterator[View]:
        settings = Settings(home=folder, cache_dirs=(CacheDir(folder / "cache", GIB),), cache_reserve=0.0)
        clock, control = FakeClock(), ControlDb(folder / "control.db")
        cache = Cache(settings, clock)
        fs = FileSystem(settings, control, cache, clock, open_store=lambda *_, **__: (cast(Store, _Kept(store)), ""))
        await fs.mount("/m", "any://store", MountOptions(freshness=freshness, ttl_s=TTL_S))
        try:
            yield View(fs, clock)
        finally:
            await fs.close()
            control.close()

    async def _change(self, store: Store, key: str, data: bytes) -> None:
        if not self.tells_changes_within_a_second:
            await asyncio.sleep(1.1)
        await self.fill(store, key, data)

    async def test_always_sees_a_change_of_the_same_size_at_once(self, store: Store, folder_of_cache: Path) -> None:
        await self.fill(store, "d/k", b"one")
        async with self.view(folder_of_cache, store, "always") as view:
            assert await view.read("/m/d/k") == b"one"
            await self._change(store, "d/k", b"two")
            assert await view.read("/m/d/k") == b"two"

    async def test_a_ttl_bounds_how_long_a_change_stays_unseen(self, store: Store, folder_of_cache: Path) -> None:
        await self.fill(store, "d/k", b"one")
        async with self.view(folder_of_cache, store, "ttl") as view:
            assert await view.read("/m/d/k") == b"one"
            assert await view.names("/m/d") == ["k"]
            await self._change(store, "d/k", b"two")
            await self.fill(store, "d/new", b"x")
            view.clock.advance(TTL_S + 0.1)
            assert await view.read("/m/d/k") == b"two"
            assert await view.names("/m/d") == ["k", "new"]
            await self.drop(store, "d/k")
            view.clock.advance(TTL_S + 0.1)
            with pytest.raises(NotFound):
                await view.fs.stat("/m/d/k")
            assert await view.names("/m/d") == ["new"]

    async def test_immutable_asks_again_only_after_a_refresh_and_then_at_once(
        self, store: Store, folder_of_cache: Path
    ) -> None:
        await self.fill(store, "d/k", b"one")
        async with self.view(folder_of_cache, store, "immutable") as view:
            assert await view.read("/m/d/k") == b"one"
            assert await view.names("/m/d") == ["k"]
            await self._change(store, "d/k", b"two")
            await self.fill(store, "d/new", b"x")
            view.clock.advance(1e6)
            assert await view.read("/m/d/k") == b"one"
            assert await view.names("/m/d") == ["k"]
            await view.fs.refresh("/m/d")
            assert await view.read("/m/d/k") == b"two"
            assert await view.names("/m/d") == ["k", "new"]

    async def test_a_folder_becomes_a_file_and_a_folder_again(self, store: Store, folder_of_cache: Path) -> None:
        await self.fill(store, "a/x", b"below")
        async with self.view(folder_of_cache, store, "always") as view:
            assert isinstance(await view.fs.stat("/m/a"), FolderEntry)
            await self.drop(store, "a/x")
            if not self.empty_folders_go:
                await self.drop(store, "a/")
            await self.fill(store, "a", b"file")
            assert await view.read("/m/a") == b"file"
            with pytest.raises((NotFound, NotADirectoryError)):
                await view.fs.stat("/m/a/x")
            await self.drop(store, "a")
            await self.fill(store, "a/y", b"below again")
            assert await view.read("/m/a/y") == b"below again"
            assert await view.names("/m") == ["a"]

    async def test_an_open_file_gives_its_old_bytes_or_is_stale_and_never_a_mixture(
        self, store: Store, folder_of_cache: Path
    ) -> None:
        old, new = pattern(20 * MIB), pattern(20 * MIB)[::-1]
        await self.fill(store, "k", old)
        async with self.view(folder_of_cache, store, "ttl") as view:
            entry = await view.fs.stat("/m/k")
            assert isinstance(entry, FileEntry)
            file = view.fs.open(entry)
            assert bytes(memoryview(await file.read(0, 1_000))) == old[:1_000]
            await self._change(store, "k", new)
            for start in range(0, len(old), MIB):
                with contextlib.suppress(StaleVersion):
                    assert bytes(memoryview(await file.read(start, MIB))) == old[start : start + MIB]
            file.close()
            await view.fs.refresh("/m/k")
            assert await view.read("/m/k") == new

    async def test_a_read_that_meets_an_overwrite_gets_one_version_or_is_stale(
        self, store: Store, folder_of_cache: Path
    ) -> None:
        async with self.view(folder_of_cache, store, "always") as view:
            for turn in range(3):
                old, new = pattern(6 * MIB + turn), pattern(6 * MIB + turn)[::-1]
                await self._change(store, "k", old)
                reading = asyncio.ensure_future(view.read("/m/k"))
                await asyncio.sleep(0.002 * turn)
                await self._change(store, "k", new)
                with contextlib.suppress(StaleVersion):
                    assert await reading in (old, new)
                assert await view.read("/m/k") == new


class _Kept:
    """The store of the test, which outlives its mount."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def close(self) -> None:
        """The fixture closes it."""
