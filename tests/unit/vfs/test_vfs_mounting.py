"""Changing a mount while it is used, and mounts of a shared prefix."""

import asyncio
from pathlib import Path

import pytest

from forebay.errors import Denied, Invalid, NotFound
from forebay.stores.local import LocalStore
from forebay.testing.faulty_store import FaultyStore, Hang
from forebay.testing.rig import Rig
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.entries import MountOptions, object_url
from forebay.vfs.mounter import MountChanges


async def test_what_is_not_given_stays_as_it_was_and_all_of_it_survives_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "a", b"1")
        options = (("key", "old"), ("secret", "S"), ("region", "r"))
        mount = await rig.mount("/m", "s", options=options, readonly=True, ttl_s=5.0, policy="lru")
        changed = await rig.fs.update_mount("/m", MountChanges(options={"key": "new", "region": "", "more": "x"}))
        assert changed is mount
        wanted = MountOptions(
            options=(("key", "new"), ("secret", "S"), ("more", "x")), readonly=True, ttl_s=5.0, policy="lru"
        )
        assert mount.settings == wanted
        await rig.fs.update_mount("/m", MountChanges(readonly=False, freshness="always", policy="keep"))
        await rig.restart()
        [mount] = rig.fs.mounts
        assert mount.settings == MountOptions(options=wanted.options, freshness="always", ttl_s=5.0, policy="keep")
        assert (mount.ttl_s, await rig.read("/m/a")) == (0.0, b"1")


async def test_a_change_of_freshness_holds_from_the_next_lookup_on(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "a", b"old")
        await rig.mount("/m", "s", freshness="immutable")
        assert await rig.read("/m/a") == b"old"
        await rig.put("s", "a", b"new")
        assert await rig.read("/m/a") == b"old"
        await rig.fs.update_mount("/m", MountChanges(freshness="always"))
        assert await rig.read("/m/a") == b"new"
        await rig.put("s", "a", b"newer")
        assert await rig.read("/m/a") == b"newer"


async def test_a_change_that_the_store_refuses_changes_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "a", b"1")
        mount = await rig.mount("/m", "s", options=(("key", "right"),))
        store, rig.stores["s"] = mount.store, FaultyStore(rig.memory("s"), [Denied("wrong key")])
        with pytest.raises(Denied, match="wrong key"):
            await rig.fs.update_mount("/m", MountChanges(options={"key": "wrong"}))
        assert (mount.store, mount.settings.options) == (store, (("key", "right"),))
        await rig.restart()
        assert rig.fs.mounts[0].settings.options == (("key", "right"),)


async def test_a_ttl_for_another_freshness_and_a_path_that_is_no_mount_are_refused(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.mount("/m", "s", freshness="immutable")
        with pytest.raises(Invalid, match="a ttl means nothing with freshness immutable; add --freshness ttl"):
            await rig.fs.update_mount("/m", MountChanges(ttl_s=5.0))
        with pytest.raises(NotFound, match="/n is not a mount; `forebay fs mounts` lists them"):
            await rig.fs.update_mount("/n", MountChanges(ttl_s=5.0))


class Closable(FaultyStore):
    """A store over a shared memory that notes its own end."""

    is_closed = False

    async def close(self) -> None:
        self.is_closed = True


async def test_a_reader_goes_on_through_a_change_and_the_old_store_is_closed_after_it(tmp_path: Path) -> None:
    async with Rig(tmp_path, store_deadline_s=0.3) as rig:
        await rig.put("s", "a", b"1")
        rig.stores["s"] = old = Closable(rig.memory("s"))
        mount = await rig.mount("/m", "s")
        entry = await rig.stat_file("/m/a")
        answer = asyncio.Event()
        old.script.append(Hang(answer))
        file = rig.fs.open(entry)
        reading = asyncio.ensure_future(file.read(0, 10))
        await asyncio.sleep(0.05)
        rig.stores["s"] = new = Closable(rig.memory("s"))
        await rig.fs.update_mount("/m", MountChanges(options={"key": "new"}))
        assert isinstance(mount.store, AttributedStore)
        assert (mount.store.inner, old.is_closed) == (new, False)
        answer.set()
        assert bytes(memoryview(await reading)) == b"1"
        file.close()
        while not old.is_closed:
            await asyncio.sleep(0.02)
        assert not new.is_closed


async def test_a_store_that_is_still_read_at_the_end_is_closed_with_the_file_system(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.stores["s"] = old = Closable(rig.memory("s"))
        await rig.mount("/m", "s")
        rig.stores["s"] = Closable(rig.memory("s"))
        await rig.fs.update_mount("/m", MountChanges(options={"key": "new"}))
        assert not old.is_closed
    assert old.is_closed


# ---------------------------------------------------------------- shared prefixes


async def test_a_shared_prefix_shows_every_key_that_begins_with_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for key in ("set/train-1", "set/train-2/x", "set/train", "set/val-1", "set/train-"):
            await rig.put("s", key, key.encode())
        rig._open_store = lambda url, options, *, settings: (rig.store("s"), "set/train-/")  # type: ignore[method-assign]  # as adapters read s/set/train-
        await rig.restart()
        mount = await rig.mount("/m", "s/set/train-", shared_prefix=True)
        assert await rig.names("/m") == ["1", "2"]
        assert await rig.read("/m/1") == b"set/train-1"
        assert await rig.names("/m/2") == ["x"]
        assert object_url(await rig.stat_file("/m/2/x")) == "mem://s/set/train-2/x"
        assert mount.prefix == "set/train-"


async def test_a_store_of_real_folders_has_no_shared_prefixes(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig._open_store = lambda url, options, *, settings: (LocalStore(tmp_path), "")  # type: ignore[method-assign]
        await rig.restart()
        with pytest.raises(Invalid, match="folders there have names of their own, so --shared-prefix means nothing"):
            await rig.mount("/m", "s", shared_prefix=True)


@pytest.mark.parametrize("gone", ["d/e/f", "d/e"])
async def test_a_folder_of_this_machine_stays_with_its_modes_when_the_last_in_it_goes(
    tmp_path: Path, gone: str
) -> None:
    data = tmp_path / "data"
    (data / "d" / "e").mkdir(parents=True)
    (data / "d" / "e" / "f").write_bytes(b"x")
    stays = (data / gone).parent
    stays.chmod(0o750)
    async with Rig(tmp_path / "home") as rig:
        rig.fs.tree._open_store = lambda *_, **__: (LocalStore(data), "")
        await rig.fs.mount("/m", "file:///data", MountOptions())
        await rig.fs.remove(f"/m/{gone}", recursive=True)
        assert await rig.names("/m") == ["d"]
    assert not (data / gone).exists()
    assert stays.stat().st_mode & 0o777 == 0o750
