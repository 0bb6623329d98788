"""Prometheus metrics on a port of this machine's own address, if the setting `metrics_port` asks for them.

*Callers*: the daemon, on the loop: `Metrics` when it is built, `listen`, and `close` in any case.  *Awaits*: aiohttp.
*Invariants*: the names of metrics and their labels hold no secret; a scrape asks no store and no disk but for the free
space of the cache folders.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from forebay import __version__
from forebay.daemon.activity import Activity, resident_bytes
from forebay.errors import Busy, Denied
from forebay.observe.traffic import BOUNDS_S, Histogram, Traffic

ADDRESS = "127.0.0.1"  # what the metrics name (paths of mounts, hosts of stores) is for this machine's users

_Count = Callable[[Traffic], float]
# Name, what it is, the values of the second label (its name first), and how each is counted.
_COUNTERS: list[tuple[str, str, tuple[str, ...], tuple[_Count, ...]]] = [
    (
        "forebay_opens",
        "Files opened by readers: hit, all their bytes were cached; miss, not all were.",
        ("result", "hit", "miss"),
        (lambda t: t.hits, lambda t: t.misses),
    ),
    (
        "forebay_read_bytes",
        "Bytes that readers got, by where from. A file that the kernel reads by itself counts whole when it is opened.",
        ("source", "store", "cache", "memory"),
        (lambda t: t.read_from_store, lambda t: t.read_from_cache, lambda t: t.read_from_memory),
    ),
    (
        "forebay_fetched_bytes",
        "Bytes that came from the store, for readers, ahead of them and for loads.",
        (),
        (lambda t: t.bytes_from_store,),
    ),
    (
        "forebay_read_through_bytes",
        "Bytes that came from the store and were not cached, since there was no room.",
        (),
        (lambda t: t.bytes_read_through,),
    ),
    ("forebay_fetch_failures", "Requests for bytes that failed.", (), (lambda t: t.flights_failed,)),
    ("forebay_prefetched_files", "Files fetched ahead of readers, whole.", (), (lambda t: t.files_prefetched,)),
    (
        "forebay_stall_seconds",
        "Time that readers waited for the store, summed over readers.",
        (),
        (lambda t: t.stall.sum_s,),
    ),
    (
        "forebay_stalled_time_seconds",
        "Time in which at least one reader waited for the store.",
        (),
        (lambda t: t.stall.any_s,),
    ),
]
_HISTOGRAMS: list[tuple[str, str, tuple[str, ...], tuple[Callable[[Traffic], Histogram], ...]]] = [
    (
        "forebay_read_wait_seconds",
        "How long reads took that could not be answered at once: they waited for the store, or for the cache's disk.",
        ("source", "store", "cache"),
        (lambda t: t.read_waits, lambda t: t.disk_waits),
    ),
    (
        "forebay_lookup_wait_seconds",
        "How long lookups of names took for which the store was asked.",
        (),
        (lambda t: t.lookup_waits,),
    ),
    (
        "forebay_listing_wait_seconds",
        "How long readers of folders waited for what the store lists.",
        (),
        (lambda t: t.listing_waits,),
    ),
    (
        "forebay_fetch_seconds",
        "How long requests for bytes took, from asking to the last byte, waiting for their turn included.",
        (),
        (lambda t: t.flight_times,),
    ),
]


class Metrics:
    """See the module."""

    def __init__(self, port: int) -> None:
        """Take the port; nobody is answered yet.

        Raises:
            Busy: another program has it.
            Denied: it cannot be taken.
        """
        self._activity: Activity | None = None
        self._socket = _take_port(port)
        self._runner: web.AppRunner | None = None

    async def listen(self, activity: Activity) -> None:
        """Answer from now on."""
        self._activity = activity
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def _answer(self, request: web.Request) -> web.Response:
        assert self._activity is not None
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = CollectorRegistry()
        registry.register(_Scrape(_everything(self._activity)))
        # To write the text takes most of the time, 16 ms for 20 mounts, and readers must not wait for that.
        text = await asyncio.to_thread(encode, registry)
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def close(self) -> None:
        """Answer no more, and give the port back."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()


def _take_port(port: int) -> socket.socket:
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not for a port that another listens on
        taken.bind((ADDRESS, port))
        taken.listen()
    except OSError as error:
        taken.close()
        hint = "choose another with the setting `metrics_port`, or 0 for no metrics"
        if error.errno == errno.EADDRINUSE:
            raise Busy(f"port {port} of {ADDRESS}, for metrics, is in use by another program; {hint}") from error
        raise Denied(f"port {port} of {ADDRESS}, for metrics, cannot be taken: {error.strerror}; {hint}") from error
    return taken


class _Scrape(Collector):
    """The metrics of one scrape."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the mounts."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every metric, as it was when this was made."""
        return self._metrics


def _everything(activity: Activity) -> Iterable[Metric]:
    """Every metric, as it is now."""
    traffics = [(label(path), traffic) for path, traffic in activity.traffics()]
    for name, text, second, counts in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=["mount", *second[:1]])
        for path, traffic in traffics:
            for value, count in zip(second[1:] or (None,), counts, strict=True):
                counter.add_metric([path] if value is None else [path, value], count(traffic))
        yield counter
    for name, text, second, times in _HISTOGRAMS:
        histogram = HistogramMetricFamily(name, text, labels=["mount", *second[:1]])
        for path, traffic in traffics:
            for value, find in zip(second[1:] or (None,), times, strict=True):
                found = find(traffic)
                histogram.add_metric([path] if value is None else [path, value], _buckets(found), found.sum_s)
        yield histogram
    yield from _mounts(activity)
    yield from _stores(activity)
    yield from _cache(activity)
    yield InfoMetricFamily("forebay_build", "The version of the daemon.", {"version": __version__})
    yield GaugeMetricFamily("process_resident_memory_bytes", "Memory of the daemon.", resident_bytes())


def _mounts(activity: Activity) -> Iterable[Metric]:
    gauges = {
        name: GaugeMetricFamily(f"forebay_{name}", text, labels=["mount"])
        for name, text in (
            ("open_files", "Open files."),
            ("readers_waiting", "Reads and lookups that wait for the store now."),
            ("prefetches", "Files that are fetched ahead now."),
            ("cached_bytes", "Bytes in the cache of what the mount shows; mounts of one place share them."),
            ("opened_bytes", "Size of all different files that readers opened since the mount began, about."),
            ("uploads_waiting", "Files that are not in their store yet."),
        )
    }
    uploads, fs = activity.uploads(), activity.fs
    for mount in fs.mounts:
        numbers = {
            "open_files": mount.open_files,
            "readers_waiting": mount.traffic.stall.waiting,
            "prefetches": fs.prefetcher.under_way(mount.path),
            "cached_bytes": fs.cache.held_bytes(mount.place),
            "opened_bytes": mount.traffic.opened.since().size,
            "uploads_waiting": uploads.get(mount.path, 0),
        }
        for name, number in numbers.items():
            gauges[name].add_metric([label(mount.path)], number)
    return gauges.values()


def _stores(activity: Activity) -> Iterable[Metric]:
    under_way = GaugeMetricFamily("forebay_store_requests", "Requests for bytes that are under way.", labels=["store"])
    waiting = GaugeMetricFamily(
        "forebay_store_requests_waiting",
        "Requests for bytes that wait for their turn, for readers or ahead of them.",
        labels=["store", "reason"],
    )
    for queue in activity.queues():
        store = label(queue.location)
        under_way.add_metric([store], queue.requests)
        waiting.add_metric([store, "readers"], queue.readers_waiting)
        waiting.add_metric([store, "ahead"], queue.background_waiting)
    return under_way, waiting


def _cache(activity: Activity) -> Iterable[Metric]:
    uses, cache = activity.fs.cache.use(), activity.fs.cache
    for name, text, sizes in (
        ("capacity_bytes", "How much a cache folder may hold now.", [use.capacity_bytes for use in uses]),
        ("used_bytes", "How much it holds.", [use.used_bytes for use in uses]),
        ("files", "How many files it holds.", [use.files for use in uses]),
    ):
        gauge = GaugeMetricFamily(f"forebay_cache_{name}", text, labels=["folder"])
        for use, size in zip(uses, sizes, strict=True):
            gauge.add_metric([label(use.directory)], size)
        yield gauge
    yield CounterMetricFamily("forebay_evicted_files", "Files that left the full cache.", cache.files_evicted)
    yield CounterMetricFamily("forebay_evicted_bytes", "Bytes that left the full cache.", cache.bytes_evicted)
    text = "Cached pages of 1 MiB that were not what their checksum says, and were dropped."
    yield CounterMetricFamily("forebay_corrupt_pages", text, cache.pages_dropped_corrupt)


def _buckets(times: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as Prometheus wants them."""
    found, below = [], 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), times.counts, strict=True):
        below += count
        found.append((bound, float(below)))
    return found


def label(name: str) -> str:
    r"""A name as the value of a label, which must be Unicode.

    >>> label("/data/\udcff")
    '/data/\\xff'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
