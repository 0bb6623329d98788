"""Are the far stores far and thin?  One GET's time, bare obstore's rate with 8, 32 and 64 in flight, and of one put."""

import statistics
import time

import obstore

from common import MBPS, RTT_MS, SMALL_BYTES, Figure, Result, World, open_bucket, plain_obstore, save, say

COUNT = 2000
BUCKET = "proxycheck"
PUT_BYTES = 256 << 20
LIMIT = MBPS * 1e6 / SMALL_BYTES  # objects per second that the link lets through


def measure(world: World) -> Result:
    folder = world.small_files(BUCKET, COUNT)
    world.upload(BUCKET, folder, in_sink=True)
    keys = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.bin"))]
    figures, runs = [], {}
    for name, endpoint in (("slow proxy", world.far.endpoint), ("sink server", world.sink.far_endpoint)):
        single_ms = _single_ms(endpoint, keys)
        flown = {
            flight: [plain_obstore(endpoint, BUCKET, f"range-{flight}", keys) for _ in range(3)]
            for flight in (8, 32, 64)
        }
        put = [_put_share(endpoint) for _ in range(3)]
        one, most, largest = statistics.median(single_ms), statistics.median(flown[64]), statistics.median(put)
        figures += [
            Figure(f"{name}: one GET of 110 KiB, not faster than the wire", RTT_MS, one, unit=" ms"),
            Figure(f"{name}: one GET of 110 KiB, not much slower", 30, one, at_most=True, unit=" ms"),
            Figure(f"{name}: 64 in flight, share of the link", 0.8, most / LIMIT),
            Figure(f"{name}: 64 in flight, not above the link", 1.02, most / LIMIT, at_most=True),
            Figure(f"{name}: a large put, not above the link", 1.02, largest, at_most=True),
        ]
        runs[f"{name}, one GET of 110 KiB, ms"] = single_ms
        runs |= {f"{name}, {flight} in flight, objects/s": rates for flight, rates in flown.items()}
        runs[f"{name}, a put of {PUT_BYTES >> 20} MiB, share of the link"] = put
    return Result(
        name="check_proxy",
        how=f"behind {RTT_MS:g} ms and {MBPS:g} MB/s, which lets {LIMIT:,.0f} objects/s through",
        figures=figures,
        runs=runs,
        unit="",
        parameters={"objects": COUNT, "put_bytes": PUT_BYTES, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


def _single_ms(endpoint: str, keys: list[str]) -> list[float]:
    store = open_bucket(endpoint, BUCKET)
    obstore.get(store, keys[0]).bytes()  # opens the connection
    times_ms = []
    for key in keys[:40]:
        begin = time.perf_counter()
        obstore.get(store, key).bytes()
        times_ms.append(1000 * (time.perf_counter() - begin))
    return times_ms


def _put_share(endpoint: str) -> float:
    content = bytes(PUT_BYTES)
    begin = time.perf_counter()
    obstore.put(open_bucket(endpoint, BUCKET), "put", content, chunk_size=8 << 20, max_concurrency=8)
    return PUT_BYTES / (time.perf_counter() - begin) / (MBPS * 1e6)


if __name__ == "__main__":
    say(f"far stores, {RTT_MS:g} ms and {MBPS:g} MB/s")
    with World() as world:
        save(measure(world))
