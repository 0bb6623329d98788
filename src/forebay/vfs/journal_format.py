"""The bytes of the journal: segments, their headers, their entries.  Pure.

A segment is a file of fixed size that is used again and again.  It opens with two blocks for its header, written in
turn: if a crash tears one, the other is still there.  Entries follow, each from a block's start, so that no write
ever touches a block that holds something acknowledged.

A *generation* is one use of a segment, counted over the whole journal: entries of an earlier use name another
generation and are not read.  An *LSN* (log sequence number) counts entries over the whole journal, without gaps.

What makes a crash and damage distinguishable: a segment is on the disk whole before the next one is begun, a header
before its first entry, and each entry says up to which LSN all was on the disk when it was written.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import xxhash

from forebay.errors import Invalid
from forebay.types import Buffer
from forebay.units import KIB, MIB, format_size

VERSION = 1
BLOCK_BYTES = 4 * KIB  # a page of the kernel and of today's disks: whole ones are written without reading them first
SEGMENT_BYTES = 16 * MIB
BODY_MAX = 128 * KIB  # bytes of a record's body
TEXT_MAX = 64 * KIB  # bytes of a record's key and fields as JSON
RETIRED_MAX = 1024  # sequence numbers in one entry
HEADER_SLOTS = 2
ENTRIES_START = HEADER_SLOTS * BLOCK_BYTES

_SEGMENT_MAGIC, _ENTRY_MAGIC = b"FOREBAYJ", b"fbje"
_SUM = struct.Struct("<Q")  # xxh3-64 of what stands before it, and of the payload
_HEADER = struct.Struct("<8sQQQQ")  # magic, version, generation, start, oldest
_ENTRY = struct.Struct("<4sIQQQQIi")  # magic, retired, generation, lsn, seq, durable, text bytes, body bytes or -1


class Header(NamedTuple):
    """What a segment is used for now."""

    generation: int  # counted from 1; 0: never used
    start: int  # LSN of its first entry; where the segment before it ends
    oldest: int  # the lowest generation that is still needed
    version: int = VERSION


UNUSED = Header(0, 0, 0)


class Entry(NamedTuple):
    """One write: a record or none, and the records that are retired with it."""

    generation: int
    lsn: int  # counted from 1
    seq: int  # the record's number, which is the LSN it was first written with; 0: no record
    durable: int  # all entries up to this LSN were on the disk before
    retired: tuple[int, ...]  # sequence numbers
    text: bytes  # see `encode_text`
    body: bytes | memoryview | None

    @property
    def size(self) -> int:
        """Bytes it takes in a segment."""
        return entry_bytes(len(self.retired), len(self.text), self.body)


def whole_blocks(size: int) -> int:
    """`size` bytes rounded up to whole blocks.

    >>> whole_blocks(0), whole_blocks(1), whole_blocks(4096)
    (0, 4096, 4096)
    """
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def entry_bytes(retired: int, text_bytes: int, body: bytes | memoryview | None) -> int:
    """Bytes that such an entry takes in a segment."""
    return whole_blocks(_ENTRY.size + _SUM.size + 8 * retired + text_bytes + len(body or b""))


ENTRY_MAX = entry_bytes(RETIRED_MAX, TEXT_MAX, bytes(BODY_MAX))
SEGMENT_MIN = ENTRIES_START + ENTRY_MAX


# ---------------------------------------------------------------- records

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_text(about: str, fields: Mapping[str, object]) -> bytes:
    """A record's key and fields as JSON, in ASCII: paths may hold surrogate escapes.

    Raises:
        Invalid: not JSON, or more than 64 KiB of it.
    """
    try:
        text = _encode([about, fields]).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the fields of a journal record must be JSON: {error}") from error
    if len(text) > TEXT_MAX:
        raise Invalid(f"a journal record's fields may take {format_size(TEXT_MAX)}, not {format_size(len(text))}")
    return text


def decode_text(text: bytes) -> tuple[str, dict[str, object]]:
    """Key and fields of a record, as `encode_text` got them.

    >>> decode_text(encode_text("/a\\udcff", {"size": 1}))
    ('/a\\udcff', {'size': 1})
    """
    about, fields = json.loads(text)
    return about, fields


def checked_body(body: Buffer | None) -> bytes | None:
    """A record's body as bytes of its own.

    Raises:
        Invalid: more than 128 KiB.
    """
    if body is None:
        return None
    size = memoryview(body).nbytes
    if size > BODY_MAX:
        raise Invalid(f"a journal record's body may have {format_size(BODY_MAX)}, not {size} bytes")
    return bytes(body)


# ---------------------------------------------------------------- headers


def encode_header(header: Header) -> bytes:
    """A block with a header."""
    head = _HEADER.pack(_SEGMENT_MAGIC, header.version, header.generation, header.start, header.oldest)
    return (head + _SUM.pack(xxhash.xxh3_64_intdigest(head))).ljust(BLOCK_BYTES, b"\0")


def decode_header(blocks: Buffer) -> tuple[Header, int]:
    """The newer header of a segment's first blocks, and its slot; (`UNUSED`, -1) if there is none."""
    found = UNUSED, -1
    for slot in range(HEADER_SLOTS):
        head = bytes(memoryview(blocks)[slot * BLOCK_BYTES :][: _HEADER.size + _SUM.size])
        if len(head) < _HEADER.size + _SUM.size or not head.startswith(_SEGMENT_MAGIC):
            continue
        (checksum,) = _SUM.unpack_from(head, _HEADER.size)
        if xxhash.xxh3_64_intdigest(head[: _HEADER.size]) != checksum:
            continue
        _, version, generation, start, oldest = _HEADER.unpack_from(head)
        header = Header(generation, start, oldest, version)
        if (generation, oldest) > (found[0].generation, found[0].oldest):  # `oldest` alone may have moved on
            found = header, slot
    return found


# ---------------------------------------------------------------- entries


def encode_entry(entry: Entry) -> list[bytes | memoryview]:
    """Whole blocks with an entry, in pieces: the body is not copied."""
    body_bytes = -1 if entry.body is None else len(entry.body)
    numbers = entry.generation, entry.lsn, entry.seq, entry.durable
    head = _ENTRY.pack(_ENTRY_MAGIC, len(entry.retired), *numbers, len(entry.text), body_bytes)
    payload = struct.pack(f"<{len(entry.retired)}Q", *entry.retired) + entry.text
    checksum = xxhash.xxh3_64(head)
    checksum.update(payload)
    checksum.update(entry.body or b"")
    start = head + _SUM.pack(checksum.intdigest()) + payload
    padding = bytes(entry.size - len(start) - len(entry.body or b""))
    return [start, entry.body or b"", padding]


def decode_entry(data: Buffer, offset: int = 0) -> Entry | None:
    """The entry that begins at a block; None if none does, or not whole."""
    view = memoryview(data)[offset:]
    start = _ENTRY.size + _SUM.size
    if len(view) < start:
        return None
    magic, retired_count, generation, lsn, seq, durable, text_bytes, body_bytes = _ENTRY.unpack_from(view)
    text_start = start + 8 * retired_count
    body_start = text_start + text_bytes
    stop = body_start + max(body_bytes, 0)
    if magic != _ENTRY_MAGIC or stop > len(view):
        return None
    checksum = xxhash.xxh3_64(view[: _ENTRY.size])
    checksum.update(view[start:stop])
    if checksum.intdigest() != _SUM.unpack_from(view, _ENTRY.size)[0]:
        return None
    retired = struct.unpack_from(f"<{retired_count}Q", view, start)
    body = None if body_bytes < 0 else bytes(view[body_start:stop])
    return Entry(generation, lsn, seq, durable, retired, bytes(view[text_start:body_start]), body)


def read_entries(data: Buffer, header: Header) -> Iterator[tuple[int, Entry]]:
    """Offset and entry of all that a segment holds, in order, up to the first that cannot be read."""
    offset, lsn = ENTRIES_START, header.start
    while True:
        entry = decode_entry(data, offset)
        if entry is None or (entry.generation, entry.lsn) != (header.generation, lsn):
            return
        yield offset, entry
        offset, lsn = offset + entry.size, lsn + 1


def was_acknowledged(data: Buffer, header: Header, offset: int, lsn: int) -> bool:
    """Does a later entry of this generation say that `lsn`, which cannot be read at `offset`, was on the disk?"""
    for later in range(offset + BLOCK_BYTES, len(memoryview(data)), BLOCK_BYTES):
        entry = decode_entry(data, later)
        if entry is not None and entry.generation == header.generation and entry.durable >= lsn:
            return True
    return False
