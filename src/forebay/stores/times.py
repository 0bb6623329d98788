"""Times as stores write them, and as `ObjectMeta` has them."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def nanoseconds(moment: datetime) -> int:
    """A time as `ObjectMeta` has it."""
    return (moment - _EPOCH) // _MICROSECOND * 1000


def header_time_ns(text: str | None) -> int:
    """The time in a Last-Modified header; 0 if there is none."""
    try:
        return nanoseconds(parsedate_to_datetime(text)) if text else 0
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0
