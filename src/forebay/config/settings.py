"""Every setting, with its unit, default and reason.  Frozen; made by `forebay.config.load`."""

from dataclasses import dataclass
from pathlib import Path

from forebay.errors import Invalid
from forebay.units import MIB

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class CacheDir:
    """One folder that holds cached bytes."""

    path: Path
    capacity_bytes: int | None = None  # None: all of the disk but the reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may tune.  The name here is the name in `forebay.toml`, in `FOREBAY_*` and in the docs."""

    home: Path
    """Control database, socket, log; default cache.  `~/.forebay`."""
    cache_dirs: tuple[CacheDir, ...] = ()
    """Where cached bytes live; empty means `home/cache`.  Several disks: several folders, a size each."""
    writes_dir: str = ""
    """Where files lie that are being written or are not in their store yet; empty means `home/writes`.  On the disk of
    the cache they move into it without a copy."""
    cache_reserve: float = 0.10
    """Share of each cache disk that is always left free for others; 0 to 0.9."""
    cache_policy: str = "keep"
    """Default eviction policy of a mount: `keep`, `lru` or `s3fifo` (ARCHITECTURE.md says why `keep`)."""
    memory_bytes: int = 64 * MIB
    """Bytes of store answers and uncached pages held in memory at a time; bounds the daemon's size."""
    metadata_entries: int = 200_000
    """Names of files and folders kept in memory, about 400 bytes each."""
    ttl_s: float = 60.0
    """How long a mount with freshness `ttl` believes what it knows of names and versions, seconds."""
    store_deadline_s: float = 60.0
    """One read or listing fails after this many seconds without its answer."""
    store_requests: int = 64
    """Requests to one store in flight at a time: 64 fill a 200 MB/s link at 20 ms with 100 KB objects."""
    readahead_bytes: int = 64 * MIB
    """Largest window fetched ahead of one sequential reader (it starts at 1 MiB and doubles), or of one announced
    order."""
    prefetch: bool = True
    """Fetch the rest of a folder in the background after a few misses in it."""
    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`, of `home/daemon.log`."""

    def __post_init__(self) -> None:
        if not 0 <= self.cache_reserve <= 0.9:
            raise Invalid(f"cache_reserve must be between 0 and 0.9, got {self.cache_reserve}")
        if self.cache_policy not in ("keep", "lru", "s3fifo"):
            raise Invalid(f"cache_policy must be 'keep', 'lru' or 's3fifo', got {self.cache_policy!r}")
        if self.memory_bytes < 16 * MIB:
            raise Invalid(f"memory_bytes must be at least 16MiB, got {self.memory_bytes}")
        if self.store_requests < 1:
            raise Invalid(f"store_requests must be at least 1, got {self.store_requests}")
        if not 0 < self.store_deadline_s < float("inf"):
            raise Invalid(f"store_deadline_s must be above 0, got {self.store_deadline_s}")
        if not self.ttl_s >= 0:
            raise Invalid(f"ttl_s must be 0 or more, got {self.ttl_s}")
        if self.metadata_entries < 1:
            raise Invalid(f"metadata_entries must be at least 1, got {self.metadata_entries}")
        if self.readahead_bytes < 0:
            raise Invalid(f"readahead_bytes must be 0 or more, got {self.readahead_bytes}")
        if self.log_level not in LOG_LEVELS:
            raise Invalid(f"log_level must be one of {', '.join(LOG_LEVELS)}, got {self.log_level!r}")

    @property
    def cache_folders(self) -> tuple[CacheDir, ...]:
        """The cache folders in use, the default filled in."""
        return self.cache_dirs or (CacheDir(self.home / "cache"),)

    @property
    def writes_folder(self) -> Path:
        """The folder of files being written, the default filled in."""
        return Path(self.writes_dir).expanduser().absolute() if self.writes_dir else self.home / "writes"
