"""The shape of the tree: virtual folders, mounts and pins, kept in the control database.

It answers from memory, changes the database first and memory after, and knows no file: whether a path inside a
mount exists is for the file system to say.
"""

from typing import Protocol

import structlog

from forebay import paths
from forebay.cache.cache import Pin
from forebay.cache.policy import POLICIES
from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.errors import FsError, Invalid, NotFound
from forebay.observe.ledger import Ledger
from forebay.stores.base import Store
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import KeptAttributes
from forebay.vfs.control import ControlDb
from forebay.vfs.entries import FolderEntry, Mount, MountOptions
from forebay.vfs.mounttable import MountTable, Place

log = structlog.get_logger()

_LIFETIMES = {"immutable": float("inf"), "always": 0.0}


class OpenStore(Protocol):
    """From a URL and options to a store and the prefix in it, as `forebay.stores.registry.open_store` does."""

    def __call__(self, url: str, options: dict[str, str], *, settings: Settings) -> tuple[Store, str]:
        """Open a store; no request is made."""
        ...


class Tree:
    """See the module."""

    def __init__(
        self, settings: Settings, control: ControlDb, clock: Clock, open_store: OpenStore, kept: KeptAttributes
    ) -> None:
        self._settings = settings
        self._open_store = open_store
        self._control = control
        self._clock = clock
        self._kept = kept
        self._table = MountTable()
        self._overlay: dict[str, dict[str, FolderEntry]] = {}
        self._pinned: list[str] = []
        self.ledger = Ledger()

    def restore(self) -> None:
        """Bring back folders, mounts and pins from the control database; no store is asked."""
        for path in self._control.folders():
            self._table.add_folder(path)
        for path, url, options in self._control.mounts():
            try:
                self._show(self.make_mount(path, url, options))
            except FsError as error:
                log.error("mount.not_restored", path=path, url=url, reason=str(error))
        self._derive()

    def make_mount(self, path: str, url: str, options: MountOptions) -> Mount:
        """A mount that is not in the tree yet; its store has not been asked.

        Raises:
            Invalid: the URL or an option is wrong.
        """
        if options.freshness not in ("ttl", *_LIFETIMES):
            raise Invalid(f"freshness must be 'immutable', 'ttl' or 'always', not {options.freshness!r}")
        if options.write_mode not in ("through", "back", "lazy"):
            raise Invalid(f"write mode must be 'through', 'back' or 'lazy', not {options.write_mode!r}")
        if options.policy not in (None, *POLICIES):
            raise Invalid(f"policy must be 'keep', 'lru' or 's3fifo', not {options.policy!r}")
        if options.quota_bytes is not None and options.quota_bytes < 0:
            raise Invalid(f"a quota must be 0 bytes or more, not {options.quota_bytes}")
        store, prefix = self._open_store(url, dict(options.options), settings=self._settings)
        if options.shared_prefix:
            if not store.capabilities.any_prefix:
                raise Invalid(f"{url}: folders there have names of their own, so --shared-prefix means nothing")
            prefix = prefix if url.endswith("/") else prefix.removesuffix("/")
        if store.capabilities.writable and not (store.capabilities.attributes and store.capabilities.links):
            store = AttributedStore(store, self._kept)
        ttl_s = options.ttl_s if options.ttl_s is not None else self._settings.ttl_s
        return Mount(
            path=path,
            url=url,
            store=store,
            prefix=prefix,
            settings=options,
            mounted_ns=self._clock.time_ns(),
            ttl_s=_LIFETIMES.get(options.freshness, ttl_s),
        )

    def _derive(self) -> None:
        now = self._clock.time_ns()
        self._overlay = {}
        for path in (*self._table.folders, *(mount.path for mount in self.mounts)):
            folder, name = paths.split(path)
            mount = self._table.mount_at(path)
            entry = FolderEntry(path, mount, mount.mounted_ns if mount else now)
            self._overlay.setdefault(folder, {})[name] = entry
        self._pinned = self._control.pins()

    # ------------------------------------------------------------------ questions

    @property
    def mounts(self) -> list[Mount]:
        """Every mount, by path."""
        return self._table.mounts

    def is_virtual(self, path: str) -> bool:
        """Is the path a virtual folder, of which the overlay is all there is?"""
        return self._table.is_folder(path)

    def mount_at(self, path: str) -> Mount | None:
        """The mount whose root is exactly this path."""
        return self._table.mount_at(path)

    def below(self, path: str) -> list[Mount]:
        """Mounts at or below a path."""
        return self._table.below(path)

    def locate(self, path: str) -> Place:
        """The mount and key of a path; see `MountTable.locate`."""
        return self._table.locate(path)

    def folder_place(self, path: str) -> Place:
        """The mount of a folder, and the prefix of the keys in it."""
        mount, key = self._table.locate(path)
        return Place(mount, key if mount is None or key == mount.prefix else key + "/")

    def overlay(self, folder: str) -> dict[str, FolderEntry] | None:
        """The virtual folders and mounts that show directly in a folder."""
        return self._overlay.get(folder)

    # ------------------------------------------------------------------ changes

    def add_folder(self, path: str) -> None:
        """Make and keep a virtual folder; raises as `MountTable.add_folder`."""
        self._table.check_folder(path)
        self._control.add_folder(path)
        self._table.add_folder(path)
        self._derive()

    def remove_folder(self, path: str) -> None:
        """Remove a virtual folder; raises as `MountTable.remove_folder`."""
        self._table.check_remove_folder(path)
        self._control.remove_folder(path)
        self._table.remove_folder(path)
        self._derive()

    def check_mount(self, path: str) -> None:
        """Raise what `add_mount` would raise for that path, before the store is asked."""
        self._table.check_mount(path)

    def add_mount(self, mount: Mount) -> None:
        """Show and keep a mount; raises as `MountTable.add_mount`."""
        self._table.check_mount(mount.path)
        self._control.add_mount(mount.path, mount.url, mount.settings)
        self._show(mount)
        self._derive()

    def _show(self, mount: Mount) -> None:
        self._table.add_mount(mount)
        self.ledger.open(mount.path, mount.traffic, self._clock.monotonic())

    def update_mount(self, mount: Mount, changed: Mount) -> None:
        """Keep and take over what has changed of a mount; its path and place in the store have not."""
        self._control.add_mount(mount.path, mount.url, changed.settings)
        mount.store, mount.settings, mount.ttl_s = changed.store, changed.settings, changed.ttl_s

    def remove_mount(self, path: str) -> Mount:
        """Take a mount away, and its credentials with it; raises as `MountTable.remove_mount`."""
        self._table.check_remove_mount(path)
        self._control.remove_mount(path)
        mount = self._table.remove_mount(path)
        self.ledger.close(path)
        self._derive()
        return mount

    # ------------------------------------------------------------------ pins

    def add_pin(self, path: str, *, is_folder: bool) -> None:
        """Keep what is at (or below) a path in the cache."""
        self._control.add_pin(path.rstrip("/") + "/" if is_folder else path)
        self._derive()

    def remove_pin(self, path: str) -> None:
        """Take a pin away.

        Raises:
            NotFound: the path is not pinned itself.
        """
        pinned = [pin for pin in self._pinned if pin.rstrip("/") == path.rstrip("/")]
        if not pinned:
            raise NotFound(f"{path} is not pinned", path=path)
        for pin in pinned:
            self._control.remove_pin(pin)
        self._derive()

    def is_pinned(self, path: str) -> bool:
        """Is a path pinned, itself or by a folder above it?"""
        return any(path == pin or paths.is_within(path, pin.rstrip("/") or "/") for pin in self._pinned)

    def pins(self) -> list[Pin]:
        """What the cache must keep, as keys and prefixes of stores."""
        return [pin for path in self._pinned for pin in self.keys_of(path)]

    def keys_of(self, path: str) -> list[Pin]:
        """The keys at or below a path: of a folder if it ends in "/", else of a file."""
        bare = path.rstrip("/") or "/"
        mount, key = self._table.locate(bare)
        found = [Pin(other.store.location, other.prefix) for other in self.below(bare) if other is not mount]
        if mount is not None:
            is_folder = path.endswith("/") and key != mount.prefix
            found.append(Pin(mount.store.location, key + "/" if is_folder else key))
        return found
