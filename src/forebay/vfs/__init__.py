"""The virtual file system: a tree of mounts, without any frontend in it."""
