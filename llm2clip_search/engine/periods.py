"""Dates as people write them: ``2026``, ``2026-11`` and ``2026-11-25 10:00`` each name a period."""

import re
from dataclasses import dataclass

import numpy as np

_DATE = re.compile(
    r"(?P<Y>\d{4})(?:[-/](?P<M>\d{1,2})(?:[-/](?P<D>\d{1,2})"
    r"(?:[T ](?P<h>\d{1,2})(?::(?P<m>\d{2})(?::(?P<s>\d{2})(?:\.(?P<us>\d{1,6}))?)?"
    r" ?(?P<zone>Z|[+-]\d{2}(:?\d{2})?)?)?)?)?)?",
    re.IGNORECASE | re.ASCII,
)
_SEPARATORS = {"Y": "", "M": "-", "D": "-", "h": "T", "m": ":", "s": ":", "us": "."}


@dataclass(frozen=True, kw_only=True)
class Period:
    """From ``start`` to just before ``end``, in UTC if the text has a time zone."""

    start: np.datetime64
    has_zone: bool

    @property
    def end(self) -> np.datetime64:
        later: np.datetime64 = self.start + 1
        return later

    @property
    def is_long(self) -> bool:
        """True for a month or a year."""
        return np.datetime_data(self.start.dtype)[0] in ("Y", "M")


def period_of(text: str) -> Period | None:
    """The period that a text names: a year, or down to its last part; None if it is not a date.

    The order is year, month, day, time; a time zone (``Z``, ``+02:00``) may follow minutes.
    """
    if (match := _DATE.fullmatch(text.strip())) is None:
        return None
    parts = {unit: match[unit] for unit in _SEPARATORS if match[unit] is not None}
    written = "".join(
        _SEPARATORS[unit] + (part.ljust(6, "0") if unit == "us" else part.zfill(2)) for unit, part in parts.items()
    )
    try:
        start: np.datetime64 = np.datetime64(written)
    except ValueError:  # such as February 30
        return None
    zone = match["zone"]
    if zone and zone not in "Zz":
        minutes = 60 * int(zone[1:3]) + int(zone[3:].strip(":") or 0)
        start = start - np.timedelta64(-minutes if zone[0] == "-" else minutes, "m")
    return Period(start=start, has_zone=zone is not None)


def sql_timestamp(moment: np.datetime64) -> str:
    """A moment as text that SQL reads as a timestamp."""
    return str(moment.astype("datetime64[us]")).replace("T", " ")
