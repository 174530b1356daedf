"""Reads pages as a browser does, as far as tests ask."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects elements with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "every element is closed in its order"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attributes[name] for element, attributes in self.elements if element == tag and name in attributes]


def assert_self_contained(page: str) -> None:
    """The page is well formed, loads nothing, runs nothing, and every link leads to a part of it."""
    read = Reader(page)
    assert read.open == []
    assert {tag for tag, _ in read.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert all(source and source.startswith("data:image/") for source in read.attributes("img", "src"))
    anchors = {f"#{attributes['id']}" for _, attributes in read.elements if "id" in attributes}
    assert set(read.attributes("a", "href")) <= anchors
    assert not [part for part in ("http:", "https:", "url(") if part in page]
    assert "default-src 'none'" in page
