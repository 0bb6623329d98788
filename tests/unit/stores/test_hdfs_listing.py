"""Listings of HDFS in the order of the contract."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from forebay.stores.hdfs_listing import in_key_order

NAMES = st.lists(st.text("a-0\u00e9\U0001f600", min_size=1, max_size=4), unique=True)


def as_hdfs_orders(name: bytes) -> list[int]:
    return [byte if byte < 128 else byte - 256 for byte in name]  # Java's bytes have signs


@given(NAMES, st.data())
def test_names_in_the_order_of_hdfs_come_out_in_the_order_of_their_keys(names: list[str], data: st.DataObject) -> None:
    raw = sorted((name.encode() for name in names), key=as_hdfs_orders)
    keys = [name + b"/" if data.draw(st.booleans()) else name for name in raw]
    assert list(in_key_order(zip(raw, keys, keys, strict=True))) == sorted(keys)


def test_the_first_names_of_a_large_folder_come_before_the_last_are_asked_for() -> None:
    asked = 0

    def named() -> Iterator[tuple[bytes, bytes, bytes]]:
        nonlocal asked
        for asked in range(1_000):
            name = f"{asked:04}".encode()
            yield name, name, name

    assert next(in_key_order(named())) == b"0000"
    assert asked < 20
