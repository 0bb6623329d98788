"""Which store prefix shows at which virtual path.  Pure: no store is ever asked.

The tree of virtual folders and mounts is small (made by people), so every question is answered from dicts.
"""

from typing import NamedTuple

from forebay.errors import AlreadyExists, Busy, Invalid, NotEmpty, NotFound
from forebay.paths import is_within, relative, split
from forebay.vfs.entries import Mount


class Place(NamedTuple):
    """Where a virtual path leads."""

    mount: Mount | None  # None: above or outside every mount
    key: str  # the store's key of that path as a file; the mount's prefix itself for its root


class MountTable:
    """Virtual folders and mounts.

    Invariants (checked by tests/model/test_mount_table.py after every step):
        1. Every virtual folder's and every mount's parent is a virtual folder, the root, or lies in a mount.
        2. No path is both a virtual folder and a mount.
    """

    def __init__(self) -> None:
        self._folders: set[str] = {"/"}
        self._mounts: dict[str, Mount] = {}

    @property
    def mounts(self) -> list[Mount]:
        """Every mount, by path."""
        return [self._mounts[path] for path in sorted(self._mounts)]

    @property
    def folders(self) -> list[str]:
        """Every virtual folder but the root, by path."""
        return sorted(self._folders - {"/"})

    def is_folder(self, path: str) -> bool:
        """Is there a virtual folder at exactly this path?"""
        return path in self._folders

    def mount_at(self, path: str) -> Mount | None:
        """The mount whose root is exactly this path."""
        return self._mounts.get(path)

    def locate(self, path: str) -> Place:
        """The innermost mount that shows `path`, and the key there; a virtual folder belongs to none."""
        folder = path
        while True:
            if folder in self._folders:
                return Place(None, "")
            mount = self._mounts.get(folder)
            if mount is not None:
                return Place(mount, mount.prefix + relative(path, folder))
            if folder == "/":
                return Place(None, "")
            folder = folder.rpartition("/")[0] or "/"  # as `split`, which costs a call for each folder above

    def children(self, path: str) -> dict[str, Mount | None]:
        """Names of the virtual folders (None) and mounts directly below `path`."""
        found: dict[str, Mount | None] = {}
        for child in self._folders:
            if child != "/" and split(child)[0] == path:
                found[split(child)[1]] = None
        for child, mount in self._mounts.items():
            if child != "/" and split(child)[0] == path:
                found[split(child)[1]] = mount
        return found

    def check_folder(self, path: str) -> None:
        """Check that a virtual folder can be made at `path`.

        Raises:
            AlreadyExists: the path is a virtual folder or a mount.
        """
        if path in self._folders or path in self._mounts:
            raise AlreadyExists(f"{path} exists already", path=path)

    def add_folder(self, path: str) -> None:
        """Make a virtual folder; raises what `check_folder` raises."""
        self.check_folder(path)
        self._folders.add(path)

    def check_remove_folder(self, path: str) -> None:
        """Check that the path is an empty virtual folder, to be removed.

        Raises:
            NotFound: no virtual folder is there.
            NotEmpty: a folder or a mount lies in it.
            Busy: it is the root.
        """
        if path == "/":
            raise Busy("the root cannot be removed", path=path)
        if path not in self._folders:
            raise NotFound(f"no virtual folder {path}", path=path)
        below = self.children(path)
        if below:
            raise NotEmpty(f"{path} is not empty: it holds {', '.join(sorted(below))}", path=path)

    def remove_folder(self, path: str) -> None:
        """Remove an empty virtual folder; raises what `check_remove_folder` raises."""
        self.check_remove_folder(path)
        self._folders.remove(path)

    def check_mount(self, path: str) -> None:
        """Check that a mount can show at `path`.

        Raises:
            AlreadyExists: a mount is there already.
            NotEmpty: virtual folders or mounts lie below the path.
            Invalid: the path is the root.
        """
        if path == "/":
            raise Invalid("the root holds mounts and is none itself; mount at a path such as /data", path=path)
        if path in self._mounts:
            raise AlreadyExists(
                f"{path} is a mount already ({self._mounts[path].url}); unmount it first, or choose another path",
                path=path,
            )
        below = self.children(path)
        if below:
            raise NotEmpty(f"{path} holds {', '.join(sorted(below))}; mount at an empty folder", path=path)

    def add_mount(self, mount: Mount) -> None:
        """Show a store at `mount.path`, which may be an empty virtual folder: the mount takes its place.

        Raises what `check_mount` raises.
        """
        self.check_mount(mount.path)
        self._folders.discard(mount.path)
        self._mounts[mount.path] = mount

    def check_remove_mount(self, path: str) -> None:
        """Check that a mount can be taken away.

        Raises:
            NotFound: no mount is there.
            Busy: another mount or virtual folder lies inside it.
        """
        if path not in self._mounts:
            raise NotFound(f"{path} is not a mount; `forebay fs mounts` lists them", path=path)
        inside = [other for other in (*self._mounts, *self._folders) if other != path and is_within(other, path)]
        if inside:
            raise Busy(f"{path} holds {min(inside)}; unmount or remove that first", path=path)

    def remove_mount(self, path: str) -> Mount:
        """Take a mount away, and its path with it; raises what `check_remove_mount` raises."""
        self.check_remove_mount(path)
        return self._mounts.pop(path)

    def below(self, path: str) -> list[Mount]:
        """Mounts at or below a path."""
        return [mount for mount in self.mounts if is_within(mount.path, path)]


def top_folder(mount: Mount, key: str) -> str:
    """The first folder of a key below its mount; "" for a file in the mount's root."""
    first, slash, _ = key[len(mount.prefix) :].partition("/")
    return first if slash else ""
