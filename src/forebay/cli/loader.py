"""One worker of a training's loader: reads files batch by batch, and decodes them if they are pictures.

Run as `python -m forebay.cli.loader` by `forebay.cli.bench`, one process for each worker.  It gets its `Work` as a line
of JSON, says that it is ready, begins with the next line, and answers with its `Done`.  It ends early when its stdin
does, so that it never outlives who asked.
"""

import io
import json
import select
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forebay.clock import SystemClock
from forebay.daemon.client import Client


@dataclass(frozen=True, slots=True)
class Work:
    """What one worker is to do."""

    names: list[str]  # files, or paths of the tree if `socket` is given
    batch: int
    decode: bool
    seconds: float  # no batch is begun after so long
    socket: str | None = None  # of the daemon, by which names are read past the cache


@dataclass(frozen=True, slots=True)
class Done:
    """What one worker did; times are its own, so those of several overlap."""

    files: int = 0  # the first so many of its names
    size: int = 0  # bytes
    pictures: int = 0  # files that were decoded
    read_s: float = 0.0
    decode_s: float = 0.0


def read_all(work: Work, is_given_up: Callable[[], bool]) -> Done:
    """Do the work.

    Raises:
        OSError: a file cannot be read.
    """
    clock = SystemClock()
    read = _reader(work.socket)
    decode = _decode if work.decode else _leave
    files = size = pictures = 0
    read_s = decode_s = 0.0
    end_s = clock.monotonic() + work.seconds
    for start in range(0, len(work.names), work.batch):
        if clock.monotonic() > end_s or is_given_up():
            break
        for name in work.names[start : start + work.batch]:
            began_s = clock.monotonic()
            data = read(name)
            here_s = clock.monotonic()
            pictures += decode(data)
            decode_s += clock.monotonic() - here_s
            read_s += here_s - began_s
            files += 1
            size += len(data)
    return Done(files, size, pictures, read_s, decode_s)


def _reader(socket: str | None) -> Callable[[str], bytes]:
    if socket is None:
        return lambda name: Path(name).read_bytes()
    client = Client(Path(socket))
    return lambda name: b"".join(client.read(name, past_cache=True))


def _decode(data: bytes) -> bool:
    """Decode a picture to RGB; False if it is none, or damaged: most large data sets hold one of these."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # as Pillow's formats raise them
        return False
    return True


def _leave(_: bytes) -> bool:
    return False


def main() -> None:
    """See the module."""
    line = sys.stdin.readline()
    if not line:
        return  # the parent was stopped before it said what to do
    work = Work(**json.loads(line))
    if work.decode:
        import PIL.Image  # before the time is taken

        PIL.Image.init()
    _say("ready")
    if not sys.stdin.readline():
        return
    try:
        done = read_all(work, lambda: bool(select.select([sys.stdin], [], [], 0)[0]))
    except OSError as error:
        _say({"error": str(error)})
        return
    _say(asdict(done))


def _say(value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
