"""A store whose attributes Forebay keeps, as if the store itself kept them: the rest of the vfs need not know.

It stands before a store without `Capabilities.attributes`, or without `Capabilities.links`: then only that a file is a
symbolic link is kept here, and the file holds where the link points.  So no link is ever followed by the store, where
it could lead out of a mount.  Writes and copies carry attributes along, a removal forgets them, and heads and listings
tell them.  Of a folder that exists by its keys alone, attributes are told in the
listing above it and in the first page of its own.

*Callers*: as of any store.  *Invariant*: all but attributes is as the store says.  *On crash*: between a write and its
attributes, the object shows what its key had, and the store's own time.
"""

import stat
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import cast

from forebay.stores.base import (
    AttributesStore,
    FolderStore,
    ListPage,
    PartsStore,
    RenamingStore,
    Store,
    Upload,
    VersionCopyingStore,
)
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta
from forebay.vfs.attributes import KeptAttributes, shown_object


class AttributedStore:
    """See the module and `forebay.stores.base`: `Store`, `AttributesStore`, and what else the inner store is."""

    def __init__(self, inner: Store, kept: KeptAttributes) -> None:
        self.inner = inner
        self.location = inner.location
        self.keeps_all = not inner.capabilities.attributes  # of attributes; else links only
        is_listed = self.keeps_all or inner.capabilities.listed_attributes
        self.capabilities = replace(inner.capabilities, attributes=True, listed_attributes=is_listed, links=True)
        self._kept = kept

    def __repr__(self) -> str:
        return f"<AttributedStore of {self.inner!r}>"

    # ------------------------------------------------------------------ reading

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        await self.inner.probe(prefix)

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        return await self._kept.overlay_object(self.location, await self.inner.head(key))

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`."""
        meta = await cast(FolderStore, self.inner).stat(key)
        if isinstance(meta, ObjectMeta):
            return await self._kept.overlay_object(self.location, meta)
        return await self._kept.overlay_folder(self.location, key + "/", meta)

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        return await self.inner.get(key, span, version=version)

    def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        return self.inner.stream(key, span, version=version, chunk_bytes=chunk_bytes)

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`; `folder_metas` are of every folder of which attributes are kept, `prefix` among them."""
        pages = self.inner.list(prefix, recursive=recursive, start_after=start_after)
        told: set[str] = set()  # the folders of the page before
        try:
            async for page in pages:
                if not self._kept.has_any(self.location):
                    yield page
                    continue
                folders = set() if self.capabilities.folders else _folders_of(page, prefix)
                yield await self._kept.overlay(self.location, page, folders - told)
                told = folders
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    # ------------------------------------------------------------------ writing

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put`; what holds for the key and is not told anew stays."""
        theirs, ours = self._shared_out(attributes)
        if attributes is not None and self.keeps_all:
            theirs = Attributes(mtime_ns=attributes.mtime_ns)  # the store need not ask for a time that is known
        meta = await self.inner.put(key, data, if_version=if_version, if_absent=if_absent, attributes=theirs)
        return await self.written(meta, ours)

    def _shared_out(self, attributes: Attributes | None) -> tuple[Attributes | None, Attributes | None]:
        """What the store keeps of attributes, and what is kept here."""
        if attributes is None or self.keeps_all:
            return None, attributes
        if attributes.mode is None or not stat.S_ISLNK(attributes.mode):
            return attributes, None
        return attributes._replace(mode=None), Attributes(mode=attributes.mode)

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put_stream`, and `put`."""
        theirs, ours = self._shared_out(attributes)
        meta = await self.inner.put_stream(key, chunks, if_version=if_version, if_absent=if_absent, attributes=theirs)
        return await self.written(meta, ours)

    async def upload(self, key: str, *, attributes: Attributes | None = None) -> Upload:
        """See `PartsStore.upload`, and `put`."""
        theirs, ours = self._shared_out(attributes)
        return _AttributedUpload(self, await cast(PartsStore, self.inner).upload(key, attributes=theirs), ours)

    async def written(self, meta: ObjectMeta, attributes: Attributes | None) -> ObjectMeta:
        """An object that was just written, with its attributes kept; as it shows."""
        if attributes is None or attributes == Attributes():
            return await self._kept.overlay_object(self.location, meta)
        return shown_object(meta, await self._kept.set(self.location, meta.key, attributes, version=meta.version))

    async def set_attributes(self, key: str, attributes: Attributes, *, version: str | None = None) -> None:
        """See `AttributesStore.set_attributes`; versions stay if all is kept here.

        A folder is not looked for then: its key ends in "/".

        Args:
            version: what is believed to be a file's, which need not be asked for then.
        """
        if not self.keeps_all:
            theirs, ours = self._shared_out(attributes)
            link = ours or await self._link_at(key)
            if theirs is not None:
                await cast(AttributesStore, self.inner).set_attributes(key, theirs)
            await self._keep_link(key, link)
            return
        if version is None and self.capabilities.folders:
            bare = key.removesuffix("/")
            found = await cast(FolderStore, self.inner).stat(bare)
            if isinstance(found, ObjectMeta):
                version = found.version
            else:
                key = bare + "/"
        elif version is None and key and not key.endswith("/"):
            version = (await self.inner.head(key)).version
        await self._kept.set(self.location, key or "/", attributes, version=version)

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self.inner.delete(key)
        await self._kept.forget(self.location, key)

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`; the copy has the attributes of the source."""
        meta = await self.inner.copy(source, target)
        return await self.carry(source, meta)

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        """See `VersionCopyingStore.copy_version` and `copy`."""
        meta = await cast(VersionCopyingStore, self.inner).copy_version(known, target)
        return await self.carry(known.key, meta, source_version=known.version)

    async def carry(self, source: str, copied: ObjectMeta, *, source_version: str | None = None) -> ObjectMeta:
        """Have an object that was just made of `source` show its attributes.

        Args:
            source_version: which version of `source` it was made of; None: it is asked for, if that matters.

        Raises:
            NotFound: the source has gone meanwhile, and it is not known which version `copied` was made of.
        """
        kept = await self._kept.of(self.location, source)
        if kept is None:
            await self._kept.forget(self.location, copied.key)
            return copied
        # Attributes that hold for a version were kept before the copy was made.  If the source has that version even
        # now, it had it in between.
        if not kept.needs_version or source.endswith("/"):
            source_version = kept.version
        elif source_version is None:
            source_version = (await self.inner.head(source)).version
        kept = await self._kept.copy(
            self.location, source, copied.key, source_version=source_version, version=copied.version
        )
        return shown_object(copied, kept)

    async def move_folder(self, source: str, target: str) -> None:
        """After all objects below a folder's key have moved: so do attributes of folders that have no object."""
        await self._kept.move_below(self.location, source, target)

    async def forget_folder(self, prefix: str) -> None:
        """Forget attributes of what was in a folder once; there is nothing now."""
        await self._kept.forget_below(self.location, prefix)

    async def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`.

        A time that is kept here holds on only where a rename keeps the version, as file systems do.
        """
        link = await self._link_at(source)
        await cast(RenamingStore, self.inner).rename(source, target)
        if source != target:
            await self._kept.move(self.location, source, target)
            await self._kept.forget_below(self.location, target + "/")  # it was empty, or none
            await self._kept.move_below(self.location, source + "/", target + "/")
            await self._keep_link(target, link)  # CephFS has another version now

    async def _link_at(self, key: str) -> Attributes | None:
        """What makes a file a link, if it is one now."""
        kept = await self._kept.of(self.location, key)
        if kept is None or not kept.is_link or (await self.inner.head(key)).version != kept.version:
            return None
        return Attributes(mode=kept.mode)

    async def _keep_link(self, key: str, link: Attributes | None) -> None:
        if link is not None:
            version = (await self.inner.head(key)).version
            await self._kept.set(self.location, key, link, version=version)

    async def close(self) -> None:
        """See `Store.close`."""
        await self.inner.close()


class _AttributedUpload:
    """See `forebay.stores.base.Upload`."""

    def __init__(self, store: AttributedStore, inner: Upload, attributes: Attributes | None) -> None:
        self._store = store
        self._inner = inner
        self._attributes = attributes

    async def send(self, number: int, data: Buffer) -> None:
        """See `Upload.send`."""
        await self._inner.send(number, data)

    async def copy(self, number: int, source: str, span: ByteRange, version: str) -> None:
        """See `Upload.copy`."""
        await self._inner.copy(number, source, span, version)

    async def complete(self, *, if_version: str | None = None, if_absent: bool = False) -> ObjectMeta:
        """See `Upload.complete`."""
        meta = await self._inner.complete(if_version=if_version, if_absent=if_absent)
        return await self._store.written(meta, self._attributes)

    async def abort(self) -> None:
        """See `Upload.abort`."""
        await self._inner.abort()


def _folders_of(page: ListPage, prefix: str) -> set[str]:
    """`prefix`, and the folders below it that the objects of a page lie in."""
    found = {prefix} if prefix else set()
    for meta in page.objects:
        folder = meta.key[: meta.key.rfind("/") + 1]
        while len(folder) > len(prefix) and folder not in found:
            found.add(folder)
            folder = folder[: folder.rfind("/", 0, -1) + 1]
    return found
