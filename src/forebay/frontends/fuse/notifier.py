"""Messages that we begin, such as "ask again for this name".

The kernel takes locks for them that a caller may hold who waits for an answer of ours, so they are never sent from
the loop: a thread of its own may wait without harm.
"""

import contextlib
import os
import queue
import threading


class Notifier:
    """Sends messages in order.  `send` from the loop; the thread begins with the first message."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def send(self, message: bytes) -> None:
        """Queue one whole message."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)
            self._thread.start()
        self._queue.put(message)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            with contextlib.suppress(OSError):  # ENOENT: the kernel does not know that name; ENODEV: no mount
                os.write(self._fd, message)

    def close(self) -> None:
        """End the thread; blocks until it has, so call it when the mount has ended, before the device is closed."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
