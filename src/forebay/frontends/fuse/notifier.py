"""Messages that we begin, such as "ask again for this name".

The kernel locks the folder of a name for them, and so does a caller that waits for an answer of ours.  Therefore they
are sent when the answers that are on their way have gone (`Waiters.once_answered`): a message that waits keeps others
from the folder, and a killed daemon from its end.  As a request may come in between, they are never sent from the
loop: a thread of its own may wait.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Sequence


class Notifier:
    """Sends messages in order.  `send` from the loop; the thread begins with the first message."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: queue.SimpleQueue[Sequence[bytes] | asyncio.Future[None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        """Queue some whole messages."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)
            self._thread.start()
        self._queue.put(messages)

    def mark(self, sent: "asyncio.Future[None]") -> None:
        """Set a result when all that was queued before has been sent."""
        if self._thread is None:
            _set(sent)
        else:
            self._queue.put(sent)

    def _run(self) -> None:
        while (messages := self._queue.get()) is not None:
            if isinstance(messages, asyncio.Future):
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    messages.get_loop().call_soon_threadsafe(_set, messages)
                continue
            for message in messages:
                with contextlib.suppress(OSError):  # ENOENT: the kernel does not know that name; ENODEV: no mount
                    os.write(self._fd, message)

    def close(self) -> None:
        """End the thread; blocks until it has, so call it when the mount has ended, before the device is closed."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()


def _set(sent: "asyncio.Future[None]") -> None:
    if not sent.done():
        sent.set_result(None)
