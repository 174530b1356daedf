"""XMP packets, as a sidecar or an image file holds them."""

PACKET = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"{}/></rdf:RDF>'
)


def packet(*, rating: int | None = None, caption: str = "", keyword: str = "") -> bytes:
    stars = "" if rating is None else f' xmp:Rating="{rating}"'
    words = f' dc:description="{caption}"' * bool(caption) + f' dc:subject="{keyword}"' * bool(keyword)
    return PACKET.format(stars + words).encode()
