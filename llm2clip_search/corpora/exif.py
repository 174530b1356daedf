"""EXIF data of an image as columns of the index."""

from datetime import datetime
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base


def exif_columns(exif: Image.Exif) -> tuple[dict[str, Any], bool]:
    """Time, camera and place by column, None where they are not stated; and whether some of them are damaged."""
    details: Any = {}
    position: Any = {}
    is_damaged = False
    try:
        details, position = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
    except Exception:  # Pillow raises many types on damaged EXIF
        is_damaged = True
    camera = " ".join(str(part).strip(" \x00") for part in (exif.get(Base.Make), exif.get(Base.Model)) if part)
    columns = {
        "taken": _time(details.get(Base.DateTimeOriginal) or exif.get(Base.DateTime)),
        "camera": _text(camera),
        "latitude": _degrees(position.get(GPS.GPSLatitude), position.get(GPS.GPSLatitudeRef), limit=90.0),
        "longitude": _degrees(position.get(GPS.GPSLongitude), position.get(GPS.GPSLongitudeRef), limit=180.0),
    }
    return columns, is_damaged


def _text(value: str) -> str | None:
    cleaned = value.encode("utf-8", "replace").decode("utf-8").strip()
    return cleaned or None


def _time(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value).strip(" \x00")[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


def _degrees(parts: Any, reference: Any, *, limit: float) -> float | None:
    """Degrees, minutes, seconds and a hemisphere letter as signed degrees; None if out of range."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60.0 + seconds / 3600.0
    if not 0.0 <= value <= limit:
        return None
    letter = reference.decode("ascii", "replace") if isinstance(reference, bytes) else str(reference)
    return -value if letter[:1] in ("S", "W") else value
