"""The one process of a home that owns cache, mounts and connections, and the way to talk to it."""
