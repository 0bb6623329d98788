"""A rig that writes: open, write and close as programs do, to a store that can be taken down."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from forebay.errors import FsError, NotFound, Unavailable
from forebay.stores.posix import posix_of
from forebay.testing.faulty_store import FaultyStore
from forebay.testing.rig import Rig
from forebay.vfs.drafts import OpenDraft
from forebay.vfs.journal import Journal

MINE = posix_of(0o644, os.getuid(), os.getgid())
DOWN = Unavailable("the store is down")


class Writing(Rig):
    """A rig with the mount /s, which sends what is written."""

    mode = "through"

    async def start(self, mode: str, *, freshness: str = "immutable") -> None:
        """Mount; of what has been listed nothing is asked again."""
        self.mode = mode
        await self.mount("/s", "s", write_mode=mode, freshness=freshness)
        await self.names("/s")
        self.fs.start()

    @property
    def faulty(self) -> FaultyStore:
        return self.store("s")

    def down(self, error: FsError = DOWN) -> None:
        """Every request fails from now on."""
        self.faulty.script.extend([error] * 10_000)

    def lose_answers(self) -> Callable[[], None]:
        """Every put is carried out from now on, and nobody hears of it; what is returned ends that."""
        memory = self.memory("s")
        put = memory.put

        async def lost(*words: object, **options: object) -> object:
            await put(*words, **options)  # type: ignore[arg-type]
            raise DOWN

        memory.put = lost  # type: ignore[method-assign,assignment]
        return lambda: setattr(memory, "put", put)

    def up(self) -> None:
        self.faulty.script.clear()

    async def open(self, path: str, *, truncate: bool = False) -> OpenDraft:
        """As open(2) for writing, with O_CREAT."""
        found = self.fs.drafts.find(path)
        try:
            entry = await self.stat_file(path)
        except NotFound:
            return await self.fs.changes.create(path, MINE, exclusive=True)
        assert found is None or not found.is_ended
        return await self.fs.changes.open(entry, truncate=truncate)

    async def save(self, path: str, data: bytes, *, at: int = 0, truncate: bool = False) -> None:
        """Open, write, close; raises what close(2) raises."""
        opened = await self.open(path, truncate=truncate)
        opened.draft.content.write(at, data)
        await self.close(opened)

    async def close(self, opened: OpenDraft) -> None:
        try:
            await self.fs.uploader.flush(opened.draft)
        finally:
            opened.close()

    async def stored(self, key: str) -> bytes | None:
        """What the store has."""
        try:
            return bytes(memoryview(await self.memory("s").get(key)))
        except NotFound:
            return None

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so; time passes meanwhile, so that what failed is tried again."""
        async with asyncio.timeout(30):
            while not is_so():
                self.clock.advance(1)
                self.fs.uploader._changed.set()
                await asyncio.sleep(0.002)

    async def pass_time(self, seconds: int) -> None:
        """Let the queue see each second."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.fs.uploader._changed.set()
            await asyncio.sleep(0.002)

    async def settled(self) -> None:
        """Wait until every file that was written is a version in the cache."""
        await self.until(lambda: not list(self.fs.drafts) and not self.fs.uploader._running)

    def uploads(self) -> dict[str, str]:
        """The state of each file that the store does not have."""
        return {info.path: info.state for info in self.fs.uploader.infos()}

    async def after_a_crash(self, folder: Path) -> list[str]:
        """The paths that the journal would bring back if all ended now."""
        shutil.copytree(self.settings.writes_folder / "journal", folder)
        journal = Journal(folder)
        try:
            return [record.fields["path"] for record in journal.recovered() if not record.fields.get("gone")]
        finally:
            await journal.close()

    def staged(self) -> list[str]:
        return os.listdir(self.settings.writes_folder / "files")
