"""Makes the demo's data set: photo-like JPEGs in a folder per class, and TFRecord shards of the same pictures.

Each picture is drawn from the seed and its number alone: a landscape of soft colour, a texture that belongs to its
class, and film grain, which gives the file the size of a photograph.  A small net tells the classes apart, but only
by learning: their colours overlap, and angle and place of the texture vary.
"""

import io
import math
import os
import signal
import struct
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("bubble", "check", "cloud", "cross", "dune", "ring", "river", "slope", "spark", "stripe")
WIDTH, HEIGHT = 500, 375
GRAIN = 15.0  # standard deviation of the grain, of 255
QUALITY = 92  # with that grain: about 100 KB a picture
TILT_MAX = 0.25  # radians either way: a class is not given away by one angle

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DataSet:
    """What was made, and where."""

    images: Path  # CLASS/NUMBER.jpg
    shards: Path  # train-NNNNN-of-NNNNN.tfrecord
    count: int
    image_bytes: int
    shard_bytes: int


def make_data_set(folder: Path, *, count: int, shard_count: int, seed: int, processes: int) -> DataSet:
    """Make `count` pictures below `folder`, evenly over the classes, and the shards; the same for the same seed."""
    images, shards = folder / "imagenet", folder / "shards"
    for name in CLASSES:
        (images / name).mkdir(parents=True, exist_ok=True)
    shards.mkdir(exist_ok=True)
    work = partial(_make_shard, folder, count=count, shard_count=shard_count, seed=seed)
    with ProcessPoolExecutor(processes, initializer=_leave_ctrl_c_to_the_parent) as pool:
        sizes = list(pool.map(work, range(shard_count)))
    return DataSet(images, shards, count, sum(size for size, _ in sizes), sum(size for _, size in sizes))


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_shard(folder: Path, shard: int, *, count: int, shard_count: int, seed: int) -> tuple[int, int]:
    """Every `shard_count`th picture, as files and as one shard; the bytes of both."""
    path = folder / "shards" / f"train-{shard:05d}-of-{shard_count:05d}.tfrecord"
    image_bytes = 0
    with path.open("wb") as records:
        for number in range(shard, count, shard_count):
            label = number % len(CLASSES)
            data = encode(draw(label, np.random.default_rng((seed, number))))
            (folder / "imagenet" / CLASSES[label] / f"{number:05d}.jpg").write_bytes(data)
            records.write(frame_record(example_message(data, label)))
            image_bytes += len(data)
    return image_bytes, os.path.getsize(path)


# ---------------------------------------------------------------- pictures


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The picture as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def draw(label: int, chance: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One picture of a class; uint8, shape (HEIGHT, WIDTH, 3)."""
    light = _soft_noise(chance, 4) * 0.6 + _soft_noise(chance, 12) * 0.25 + _soft_noise(chance, 40) * 0.15
    hue = label / len(CLASSES) + chance.normal(0, 0.12)
    tint = np.array([math.cos(2 * math.pi * (hue + third / 3)) for third in range(3)], np.float32)
    picture = 120 + 70 * light[:, :, None] + 28 * tint + 34 * _texture(label, chance)[:, :, None]
    grain = chance.standard_normal((HEIGHT, WIDTH, 3), np.float32) * GRAIN
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _soft_noise(chance: np.random.Generator, cells: int) -> Floats:
    """Random hills, `cells` of them across; about -1 to 1."""
    small = Image.fromarray(chance.uniform(-1, 1, (cells * 3 // 4, cells)).astype(np.float32))
    return np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _texture(label: int, chance: np.random.Generator) -> Floats:
    """What tells the classes apart: -1 to 1, shape (HEIGHT, WIDTH)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32) / HEIGHT
    tilt = chance.uniform(-TILT_MAX, TILT_MAX)
    u = x * math.cos(tilt) + y * math.sin(tilt) + chance.uniform()
    v = y * math.cos(tilt) - x * math.sin(tilt) + chance.uniform()
    turn = 2 * math.pi
    distance = np.hypot(x - chance.uniform(0.4, 0.9), y - chance.uniform(0.3, 0.7))
    match CLASSES[label]:
        case "bubble":
            wave = np.cos(turn * 4 * u) + np.cos(turn * 4 * v)
        case "check":
            wave = np.sign(np.sin(turn * 3 * u) * np.sin(turn * 3 * v))
        case "cloud":
            wave = np.zeros_like(u)
        case "cross":
            wave = np.maximum(np.cos(turn * 2 * u) ** 8, np.cos(turn * 2 * v) ** 8) * 2 - 1
        case "dune":
            wave = np.sin(turn * (5 * v + 0.3 * np.sin(turn * 2 * u)))
        case "ring":
            wave = np.sin(turn * 7 * distance)
        case "river":
            wave = np.sin(turn * (2.5 * u + 0.5 * np.sin(turn * v)))
        case "slope":
            wave = np.sin(turn * 4 * (u + v))
        case "spark":
            wave = np.cos(turn * 9 * u) * np.cos(turn * 9 * v)
        case _:
            wave = np.sign(np.sin(turn * 6 * u))
    return np.clip(wave, -1, 1).astype(np.float32)


# ---------------------------------------------------------------- TFRecord


def frame_record(data: bytes) -> bytes:
    """One record: its length, a checksum of that, the bytes, a checksum of these (TFRecord's own framing)."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a shard, each checked.

    Raises:
        ValueError: a record is cut or damaged.
    """
    with path.open("rb", buffering=1 << 18) as file:
        while header := file.read(12):
            (size,) = struct.unpack("<Q", header[:8].ljust(8))
            data, crc = file.read(size), file.read(4)
            if (
                len(header) < 12
                or len(data) < size
                or _masked_crc(header[:8]) != header[8:]
                or _masked_crc(data) != crc
            ):
                raise ValueError(f"{path}: a record is cut or damaged")
            yield data


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def example_message(image: bytes, label: int) -> bytes:
    """A tf.train.Example of one picture, by hand: protobuf's wire format of `features.feature`, a map."""
    encoded = _field(1, _field(1, image))  # Feature.bytes_list.value
    number = _field(3, _field(1, bytes([label])))  # Feature.int64_list.value, packed; labels are below 128
    entries = ((b"image/encoded", encoded), (b"image/class/label", number))
    return _field(1, b"".join(_field(1, _field(1, name) + _field(2, feature)) for name, feature in entries))


def _field(number: int, data: bytes) -> bytes:
    """A field with a length: tag, length as a varint, bytes."""
    length, size = bytearray(), len(data)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + data
