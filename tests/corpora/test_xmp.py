"""Rating, keywords and caption from XMP and IPTC, in the forms that programs write."""

import io
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from llm2clip_search.corpora.companions import own_columns
from llm2clip_search.corpora.decode import read_facts
from llm2clip_search.corpora.xmp import MAX_BYTES, Description, read_iptc, read_xmp
from llm2clip_search.encoders.images import reading
from tests.support.images import photograph
from tests.support.odd_files import chunk
from tests.support.raws import dng

LIGHTROOM = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000, 0000/00/00-00:00:00        ">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
   tiff:Make="Canon"
   xmp:Rating="4"
   xmp:Label="Red"
   crs:Exposure2012="+0.35">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>sea</rdf:li>
     <rdf:li>R\xc3\xbcgen</rdf:li>
     <rdf:li>sea</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang="de-DE">Kreidefelsen</rdf:li>
     <rdf:li xml:lang="x-default">Chalk cliffs &amp; sea</rdf:li>
    </rdf:Alt>
   </dc:description>
   <lr:hierarchicalSubject><rdf:Bag><rdf:li>Places|Baltic</rdf:li></rdf:Bag></lr:hierarchicalSubject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
DARKTABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:darktable="http://darktable.sf.net/"
   exif:DateTimeOriginal="2024:05:06 07:08:09.000"
   xmp:Rating="-1"
   xmpMM:DerivedFrom="IMG_1.CR2"
   darktable:xmp_version="5"
   darktable:raw_params="0"
   darktable:history_end="1">
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Cliffs</rdf:li></rdf:Alt></dc:title>
   <dc:subject>
    <rdf:Seq>
     <rdf:li>chalk</rdf:li>
    </rdf:Seq>
   </dc:subject>
   <darktable:history>
    <rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="rawprepare" darktable:enabled="1"/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
WINDOWS = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="uuid:1" xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/">
<MicrosoftPhoto:Rating>{}</MicrosoftPhoto:Rating></rdf:Description></rdf:RDF></x:xmpmeta>"""


def elements(inner: str) -> bytes:
    return (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' xmlns:dc="http://purl.org/dc/elements/1.1/">{inner}</rdf:RDF>'
    ).encode()


def rated(value: str) -> int | None:
    return read_xmp(elements(f"<rdf:Description><xmp:Rating>{value}</xmp:Rating></rdf:Description>")).rating


def test_sidecars_of_programs() -> None:
    assert read_xmp(LIGHTROOM) == Description(rating=4, keywords=["sea", "Rügen"], caption="Chalk cliffs & sea")
    assert read_xmp(DARKTABLE) == Description(rating=-1, keywords=["chalk"], caption="Cliffs")
    assert read_xmp(LIGHTROOM.decode("utf-8-sig").replace("\ufeff", "").encode("utf-16")) == read_xmp(LIGHTROOM)
    assert read_xmp(b"\0" * 2000 + LIGHTROOM + b" \n" * 2000 + b"\0") == read_xmp(LIGHTROOM)
    assert read_xmp(b"") == Description()


def test_other_forms() -> None:
    several = "<rdf:Description/><rdf:Description xmp:Rating='2'/><rdf:Description dc:subject='one word'/>"
    assert read_xmp(elements(several)) == Description(rating=2, keywords=["one word"])
    plain = "<rdf:Description><dc:description> a caption </dc:description></rdf:Description>"
    assert read_xmp(elements(plain)).caption == "a caption"
    first = "<rdf:li xml:lang='fr'>un</rdf:li><rdf:li xml:lang='en'>one</rdf:li>"
    alt = f"<rdf:Description><dc:description><rdf:Alt>{first}</rdf:Alt></dc:description></rdf:Description>"
    assert read_xmp(elements(alt)).caption == "un"
    blank = "<rdf:Description><dc:subject><rdf:Bag><rdf:li> </rdf:li></rdf:Bag></dc:subject></rdf:Description>"
    assert read_xmp(elements(blank)) == Description()


def test_ratings() -> None:
    values = ("0", "5", "3.0", "-1", " 2 ", "", "6", "-2", "nan", "inf", "four", "1e400")
    assert [rated(value) for value in values] == [0, 5, 3, -1, 2, *[None] * 7]
    percents = (0, 1, 25, 50, 75, 99, 100)
    assert [read_xmp(WINDOWS.format(each).encode()).rating for each in percents] == [0, 1, 2, 3, 4, 5, 5]
    both = WINDOWS.format(99).replace(
        'photo/1.0/">', 'photo/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="2">'
    )
    assert read_xmp(both.encode()).rating == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not xml", "not well-formed"),
        (LIGHTROOM[:900], "not well-formed"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        ("<!DOCTYPE a><a/>".encode("utf-16"), "document type"),
        (b"<a>" * 1000 + b"</a>" * 1000, "nested"),
        (b"<a>" + b" " * MAX_BYTES + b"</a>", "more than"),
    ],
)
def test_what_could_do_harm_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_xmp(data)


@given(
    st.text(st.characters(exclude_categories=["C"]), min_size=1).filter(lambda text: text.strip()), st.integers(-1, 5)
)
def test_what_is_written_is_read(caption: str, rating: int) -> None:
    from xml.sax.saxutils import escape

    found = read_xmp(
        elements(
            f"<rdf:Description xmp:Rating='{rating}'><dc:description><rdf:Alt><rdf:li xml:lang='x-default'>"
            f"{escape(caption)}</rdf:li></rdf:Alt></dc:description></rdf:Description>"
        )
    )
    assert found == Description(rating=rating, caption=caption.strip())


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert read_xmp(data) == Description()


def test_iptc() -> None:
    records = {(2, 25): [b"sea", "Rügen".encode(), "Rügen".encode("cp1252")], (2, 120): b"a caption\0"}
    assert read_iptc(records) == Description(keywords=["sea", "Rügen"], caption="a caption")
    assert read_iptc({(2, 25): b"one", (2, 5): b"a title"}) == Description(keywords=["one"], caption="a title")
    assert read_iptc({(2, 25): 7, (2, 120): [None]}) == Description()


def iptc_block(*, caption: bytes) -> bytes:
    """A JPEG segment of Photoshop's resources with IPTC records: a caption and a keyword."""
    records = b"".join(
        b"\x1c\x02" + bytes([key]) + len(value).to_bytes(2) + value for key, value in ((25, b"iptc"), (120, caption))
    )
    resource = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4) + records + b"\0" * (len(records) % 2)
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + (len(body) + 2).to_bytes(2) + body


def image(format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    photograph(1).save(out, format_, **options)
    return out.getvalue()


def described(data: bytes) -> tuple[int | None, list[str] | None, str | None]:
    with reading(data) as picture:
        facts = read_facts(picture)
    return facts.rating, facts.keywords, facts.caption


def test_packets_within_image_files() -> None:
    from PIL import PngImagePlugin

    expected = (4, ["sea", "Rügen"], "Chalk cliffs & sea")
    assert described(image("JPEG", xmp=LIGHTROOM)) == expected
    assert described(image("WEBP", xmp=LIGHTROOM)) == expected
    assert described(image("AVIF", xmp=LIGHTROOM)) == expected
    assert described(image("TIFF", tiffinfo={700: LIGHTROOM})) == expected
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", LIGHTROOM.decode())
    assert described(image("PNG", pnginfo=text)) == expected
    assert described(dng(photograph(1, (640, 480)), xmp=LIGHTROOM)) == expected
    assert described(image("JPEG")) == (None, None, None)
    assert described(image("JPEG", xmp=b"damaged <")) == (None, None, None)


@pytest.mark.parametrize("compressed", [False, True])
def test_packets_behind_the_pixels_of_a_png_are_read_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    """As when they are decoded, and wherever the packets are; of two, the last counts."""

    def text(packet: bytes) -> bytes:
        body = zlib.compress(packet) if compressed else packet
        return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([compressed]) + b"\0\0\0" + body)

    def placed(data: bytes, before: bytes, packet: bytes) -> bytes:
        at = data.index(before) - 4
        return data[:at] + packet + data[at:]

    plain = image("PNG")
    three = text(elements("<rdf:Description xmp:Rating='3'/>"))
    behind = placed(plain, b"IEND", text(LIGHTROOM))
    images = {
        "none.png": plain,
        "before.png": placed(plain, b"IDAT", text(LIGHTROOM)),
        "behind.png": behind,
        "both.png": placed(behind, b"IDAT", three),
        "cut.png": behind[:-60],
        "frames.png": placed(image("PNG", save_all=True, append_images=[photograph(2)]), b"IEND", text(LIGHTROOM)),
    }
    expected = {name: described(data) for name, data in images.items() if name != "cut.png"}
    assert [rating for rating, _, _ in expected.values()] == [None, 4, 4, 4, None]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it is decoded"))
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
        for source in (data, tmp_path / name):
            own = own_columns(source)
            assert (own["rating"], own["keywords"], own["caption"]) == expected.get(name, (None, None, None))


def test_xmp_comes_before_iptc_field_by_field() -> None:
    plain, rich = image("JPEG"), image("JPEG", xmp=LIGHTROOM)
    block = iptc_block(caption=b"from IPTC")
    assert described(plain[:2] + block + plain[2:]) == (None, ["iptc"], "from IPTC")
    assert described(rich[:2] + block + rich[2:]) == (4, ["sea", "Rügen"], "Chalk cliffs & sea")
    rating_only = image("JPEG", xmp=elements("<rdf:Description xmp:Rating='3'/>"))
    assert described(rating_only[:2] + block + rating_only[2:]) == (3, ["iptc"], "from IPTC")
    assert described(plain[:2] + block[:40] + plain[2:])[0] is None
    assert Image.open(io.BytesIO(plain)).size == (64, 48)
