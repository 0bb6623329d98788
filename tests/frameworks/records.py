"""What the data sets of make_data.py hold, for those who look whether they got it."""

import random

RECORD_BYTES = 20_000


def record(number: int) -> bytes:
    """Record `number` of TFRecords and ArrayRecords."""
    return number.to_bytes(4, "big") + random.Random(number).randbytes(RECORD_BYTES)
