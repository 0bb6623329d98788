"""The parts of an upload of unknown size: cut from what comes, sent a few at a time.

*Callers*: adapters, on the loop.  *Awaits*: the network, through `send`.  *Invariants*: at most `IN_FLIGHT` parts and
one more are in memory; when `send_parts` ends, in whatever way, no part is on its way any more.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from forebay.types import Buffer
from forebay.units import MIB

PART_BYTES = 8 * MIB
GROW_EVERY = 1_000  # parts; then they double, so that 10,000 of them hold 8 TiB
IN_FLIGHT = 3


async def send_parts(
    chunks: AsyncIterator[Buffer], send: Callable[[int, Buffer], Awaitable[None]], *, name: str
) -> None:
    """Cut `chunks` into parts and `send` each with its number, from 1 on; an upload of nothing is one empty part.

    Raises what `chunks` or `send` raises.
    """

    async def send_one(number: int, part: Buffer) -> None:
        await send(number, part)

    sending: set[asyncio.Task[None]] = set()
    try:
        number = 0
        async for part in _parts(chunks):
            number += 1
            if len(sending) >= IN_FLIGHT:
                done, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            sending.add(asyncio.create_task(send_one(number, part), name=f"upload part {number} of {name}"))
        await asyncio.gather(*sending)
    finally:  # cancellations too
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


def part_bytes(number: int) -> int:
    """The size of part `number`, from 1 on, unless it is the last."""
    return PART_BYTES << ((number - 1) // GROW_EVERY)


async def _parts(chunks: AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    held, number = bytearray(), 0
    async for chunk in chunks:
        view = memoryview(chunk)
        while len(view):
            taken = min(len(view), part_bytes(number + 1) - len(held))
            held += view[:taken]
            view = view[taken:]
            if len(held) == part_bytes(number + 1):
                yield held
                held, number = bytearray(), number + 1
    if held or number == 0:
        yield held
