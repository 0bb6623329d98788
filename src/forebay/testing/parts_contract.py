# ruff: noqa: D102 - tests read as sentences
"""What stores that take an object in parts promise beside `StoreContract`; inherit both."""

import asyncio

import pytest

from forebay.errors import AlreadyExists, Invalid, NotFound, StaleVersion, Unsupported
from forebay.stores.base import PART_BYTES_MIN, PARTS_MAX, PartsStore, Store
from forebay.testing.store_contract import keys_of, pattern
from forebay.types import ByteRange
from forebay.units import MIB

PARTS = [pattern(PART_BYTES_MIN), pattern(6 * MIB)[::-1], b"the end"]


class PartsContract:
    """See the module; give a fixture `store`, as for `StoreContract`."""

    small_parts_are_refused = True  # not every server has Amazon's rule

    async def leftovers(self, store: Store) -> list[str]:
        """See `StoreContract.leftovers`."""
        return []

    async def test_parts_sent_at_once_and_in_any_order_make_one_object(self, store: PartsStore) -> None:
        assert store.capabilities.parts
        upload = await store.upload("big")
        numbered = [(7, PARTS[1]), (10, PARTS[2]), (1, PARTS[0])]  # with gaps
        await asyncio.gather(*(upload.send(number, part) for number, part in numbered))
        assert await keys_of(store, "", recursive=True) == []
        meta = await upload.complete()
        whole = b"".join(PARTS)
        assert (meta.key, meta.size) == ("big", len(whole))
        assert meta.version == (await store.head("big")).version
        assert bytes(memoryview(await store.get("big", version=meta.version))) == whole
        assert await self.leftovers(store) == []

    async def test_a_part_that_is_sent_again_replaces_the_first(self, store: PartsStore) -> None:
        upload = await store.upload("k")
        await upload.send(1, PARTS[1])
        await upload.send(2, b"old")
        await upload.send(1, memoryview(PARTS[0]))
        await upload.send(2, bytearray(b"new!"))
        meta = await upload.complete()
        assert meta.size == len(PARTS[0]) + 4
        assert bytes(memoryview(await store.get("k"))) == PARTS[0] + b"new!"

    async def test_an_upload_of_no_part_is_an_empty_object(self, store: PartsStore) -> None:
        meta = await (await store.upload("k")).complete()
        assert meta.size == 0
        assert (await store.head("k")).version == meta.version

    async def test_a_part_can_be_copied_from_another_object_or_the_one_that_is_replaced(
        self, store: PartsStore
    ) -> None:
        if not store.capabilities.copy_parts:
            pytest.skip("this store copies no parts")
        whole = b"".join(PARTS)
        old = await store.put("a folder/b+c", whole)
        for key in ("other", "a folder/b+c"):
            upload = await store.upload(key)
            span = ByteRange(1, 1 + PART_BYTES_MIN)
            await asyncio.gather(
                upload.copy(1, "a folder/b+c", span, old.version),
                upload.send(2, PARTS[0]),
                upload.copy(3, "a folder/b+c", ByteRange(0, 3), old.version),
            )
            meta = await upload.complete()
            assert meta.size == 2 * PART_BYTES_MIN + 3
            expected = whole[1 : 1 + PART_BYTES_MIN] + PARTS[0] + whole[:3]
            assert bytes(memoryview(await store.get(key, version=meta.version))) == expected

    async def test_a_part_is_not_copied_from_another_version(self, store: PartsStore) -> None:
        if not store.capabilities.copy_parts:
            pytest.skip("this store copies no parts")
        old = await store.put("source", b"old bytes")
        await store.put("source", b"new bytes")
        upload = await store.upload("target")
        with pytest.raises(StaleVersion, match="source"):
            await upload.copy(1, "source", ByteRange(0, 9), old.version)
        with pytest.raises(NotFound):
            await upload.copy(1, "nothing", ByteRange(0, 9), old.version)
        with pytest.raises(Invalid):
            await upload.copy(1, "source", ByteRange(3, 3), old.version)
        await upload.abort()
        assert await keys_of(store, "", recursive=True) == ["source"]
        assert await self.leftovers(store) == []

    async def test_an_upload_that_is_aborted_leaves_nothing(self, store: PartsStore) -> None:
        before = await store.put("kept", b"before")
        for key in ("kept", "new"):
            upload = await store.upload(key)
            await upload.send(1, PARTS[0])
            await upload.abort()
            await upload.abort()
            with pytest.raises(Invalid):
                await upload.send(2, b"late")
        assert await keys_of(store, "", recursive=True) == ["kept"]
        assert (await store.head("kept")).version == before.version
        assert await self.leftovers(store) == []

    async def test_an_abort_after_the_end_keeps_the_object(self, store: PartsStore) -> None:
        upload = await store.upload("k")
        await upload.send(1, b"bytes")
        await upload.complete()
        await upload.abort()
        assert bytes(memoryview(await store.get("k"))) == b"bytes"

    async def test_an_upload_is_completed_only_if_its_condition_holds(self, store: PartsStore) -> None:
        if not store.capabilities.conditional_put:
            pytest.skip("this store has no conditional writes")
        upload = await store.upload("k")
        await upload.send(1, b"first")
        first = await upload.complete(if_absent=True)

        upload = await store.upload("k")
        await upload.send(1, b"second")
        with pytest.raises(AlreadyExists):
            await upload.complete(if_absent=True)
        assert (await store.head("k")).version == first.version
        second = await upload.complete(if_version=first.version)  # it was open still
        assert bytes(memoryview(await store.get("k", version=second.version))) == b"second"

        upload = await store.upload("k")
        await upload.send(1, b"third")
        with pytest.raises(StaleVersion):
            await upload.complete(if_version=first.version)
        await store.delete("k")
        with pytest.raises(StaleVersion):
            await upload.complete(if_version=second.version)
        await upload.abort()
        assert await keys_of(store, "", recursive=True) == []
        assert await self.leftovers(store) == []

    async def test_a_condition_that_the_store_cannot_check_is_refused_at_the_end(self, store: PartsStore) -> None:
        if store.capabilities.conditional_put:
            pytest.skip("this store has conditional writes")
        before = await store.put("k", b"first")
        upload = await store.upload("k")
        await upload.send(1, b"second")
        with pytest.raises(Unsupported):
            await upload.complete(if_version=before.version)
        await upload.abort()
        assert (await store.head("k")).version == before.version

    async def test_a_number_that_no_part_can_have_is_invalid(self, store: PartsStore) -> None:
        upload = await store.upload("k")
        for number in (0, PARTS_MAX + 1):
            with pytest.raises(Invalid, match="number"):
                await upload.send(number, b"x")
        await upload.abort()

    async def test_a_small_part_in_the_middle_is_refused(self, store: PartsStore) -> None:
        if not self.small_parts_are_refused:
            pytest.skip("this server takes parts of any size")
        upload = await store.upload("k")
        await upload.send(1, b"small")
        await upload.send(2, b"small")
        with pytest.raises(Invalid, match="small"):
            await upload.complete()
        await upload.abort()
        assert await keys_of(store, "", recursive=True) == []
