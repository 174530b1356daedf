"""PDFs that a test writes itself."""

from collections.abc import Sequence
from pathlib import Path

Page = tuple[float, float, str]
"""Width and height in points, and a text of lines."""


def write_pdf(path: Path, pages: Sequence[Page], *, locked: bool = False) -> Path:
    """A PDF whose pages have texts; ``locked`` with a password that nobody knows."""
    path.write_bytes(pdf(pages, locked=locked))
    return path


def pdf(pages: Sequence[Page], *, locked: bool = False) -> bytes:
    """The bytes of `write_pdf`."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for number, (width, height, text) in enumerate(pages):
        shown = "".join(f"({line}) Tj T* " for line in text.split("\n"))
        content = f"BT /F 12 Tf 20 {height - 30} Td 14 TL {shown}ET" if text else ""
        box = f"/MediaBox[0 0 {width} {height}]/Resources<</Font<</F 3 0 R>>>>"
        objects.append(f"<</Type/Page/Parent 2 0 R{box}/Contents {5 + 2 * number} 0 R>>")
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{each}\nendobj\n".encode("cp1252")
    table = len(out)
    entries = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    lock = f"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O({'x' * 32})/U({'y' * 32})>>/ID[<01><01>]" if locked else ""
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{entries}".encode()
    out += f"trailer<</Root 1 0 R/Size {len(objects) + 1}{lock}>>\nstartxref\n{table}\n%%EOF".encode()
    return bytes(out)
