"""Caffe's messages, as far as data sets and trained nets need them: the public field numbers of `caffe.proto`.

`message("Datum")` is a class of the protobuf library.  No file of Caffe's is needed, nor a compiler.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT32, _INT64, _FLOAT = _FIELD.TYPE_INT32, _FIELD.TYPE_INT64, _FIELD.TYPE_FLOAT
_BYTES, _STRING, _BOOL = _FIELD.TYPE_BYTES, _FIELD.TYPE_STRING, _FIELD.TYPE_BOOL

# Name, number, type (or the name of a message); a number below zero is a list, packed where it can be.
_MESSAGES: dict[str, list[tuple[str, int, Any]]] = {
    "Datum": [
        ("channels", 1, _INT32),
        ("height", 2, _INT32),
        ("width", 3, _INT32),
        ("data", 4, _BYTES),
        ("label", 5, _INT32),
        ("encoded", 7, _BOOL),
    ],
    "BlobShape": [("dim", -1, _INT64)],
    "BlobProto": [("data", -5, _FLOAT), ("shape", 7, "BlobShape")],
    "LayerParameter": [
        ("name", 1, _STRING),
        ("type", 2, _STRING),
        ("bottom", -3, _STRING),
        ("top", -4, _STRING),
        ("blobs", -7, "BlobProto"),
    ],
    "NetParameter": [("name", 1, _STRING), ("layer", -100, "LayerParameter")],
}

# A net of one layer, and what it was "trained" to.
WEIGHTS = [[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]]
BIAS = [0.25, -4.0]
PROTOTXT = """name: "tiny"
input: "data"
input_shape { dim: 1 dim: 3 dim: 1 dim: 1 }
layer {
  name: "score"
  type: "InnerProduct"
  bottom: "data"
  top: "score"
  inner_product_param { num_output: 2 }
}
"""


def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_subset.proto", package="caffe_subset", syntax="proto2")
    for name, fields in _MESSAGES.items():
        added = file.message_type.add(name=name)
        for field, number, kind in fields:
            one = added.field.add(name=field, number=abs(number))
            one.label = _FIELD.LABEL_REPEATED if number < 0 else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                one.type, one.type_name = _FIELD.TYPE_MESSAGE, f".caffe_subset.{kind}"
            else:
                one.type = kind
                one.options.packed = number < 0 and kind in (_INT64, _FLOAT)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _pool()


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"caffe_subset.{name}"))
