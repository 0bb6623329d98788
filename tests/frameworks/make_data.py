"""Writes data sets below a folder in the formats of the frameworks, by their own libraries: python make_data.py FOLDER

pictures/CLASS/NUMBER.png       as torchvision and Keras take them; every pixel of a picture says which it is
records/part-N.tfrecord         TFRecords; record N begins with N
arrays/part-N.array_record      ArrayRecords, the same
lmdb/data.mdb                   Caffe's LMDB of Datum messages, made without a lock file
locked/data.mdb, lock.mdb       the same with one
caffe/deploy.prototxt, net.caffemodel   one layer of Caffe: 3 numbers times WEIGHTS
lines/part-N.txt                text, a line each
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import lmdb
import numpy as np
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from frameworks.caffe_format import BIAS, PROTOTXT, WEIGHTS, message
from frameworks.records import record

CLASSES, EACH = ("cat", "dog"), 12
SHARDS, IN_SHARD = 4, 25
DATUMS, SIDE = 200, 16


def pictures(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            Image.new("RGB", (24, 24), (10 + number, 100 * label, 0)).save(folder / name / f"{number:03d}.png")


def shards(folder: Path) -> None:
    for name in ("records", "arrays", "lines"):
        (folder / name).mkdir()
    for shard in range(SHARDS):
        records = [record(number) for number in range(shard * IN_SHARD, (shard + 1) * IN_SHARD)]
        with tf.io.TFRecordWriter(str(folder / f"records/part-{shard}.tfrecord")) as tfrecords:
            for one in records:
                tfrecords.write(one)
        arrays = ArrayRecordWriter(str(folder / f"arrays/part-{shard}.array_record"), "group_size:1")
        for one in records:
            arrays.write(one)
        arrays.close()
        lines = [str(number) for number in range(shard * IN_SHARD, (shard + 1) * IN_SHARD)]
        (folder / f"lines/part-{shard}.txt").write_text("\n".join(lines) + "\n")


def databases(folder: Path) -> None:
    datum = message("Datum")
    for name, lock in (("lmdb", False), ("locked", True)):
        with lmdb.open(str(folder / name), map_size=64 << 20, lock=lock) as env, env.begin(write=True) as writing:
            for number in range(DATUMS):
                data = bytes([number % 256]) * (3 * SIDE * SIDE)
                one = datum(channels=3, height=SIDE, width=SIDE, data=data, label=number % 10)
                writing.put(f"{number:08d}".encode(), one.SerializeToString())


def trained_net(folder: Path) -> None:
    folder.mkdir()
    (folder / "deploy.prototxt").write_text(PROTOTXT)
    net = message("NetParameter")(name="tiny")
    layer = net.layer.add(name="score", type="InnerProduct", bottom=["data"], top=["score"])
    for values in (WEIGHTS, BIAS):
        array = np.array(values, dtype=np.float32)
        blob = layer.blobs.add(data=array.ravel().tolist())
        blob.shape.dim.extend(array.shape)
    (folder / "net.caffemodel").write_bytes(net.SerializeToString())


if __name__ == "__main__":
    root = Path(sys.argv[1])
    pictures(root / "pictures")
    shards(root)
    databases(root)
    trained_net(root / "caffe")
