"""The worst queries as parts of a self-contained HTML page: embedded thumbnails, no scripts, no network access.

Captions and ids are untrusted. Each is escaped, and a content security policy limits the damage of a missing escape.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import numpy as np
from PIL import Image

from llm2clip_search.base.visible import visible
from llm2clip_search.encoders.images import reading
from llm2clip_search.errors import CorpusError, ImageError
from llm2clip_search.evaluation.missed_queries import MissedQueries, MissedQuery, ScoredItem

SIDE = 160
"""Longer side of a thumbnail in pixels."""
QUALITY = 80
"""JPEG quality of a thumbnail."""


def thumbnail(data: bytes) -> bytes:
    """A JPEG of at most `SIDE` pixels per side.

    Raises:
        ImageError: ``data`` is not an image, or is damaged.
    """
    with reading(data, shortest=SIDE) as picture:
        small = picture.rgb.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


class Thumbnails:
    """Caches an ``img`` element per image; each thumbnail is made when it is first needed."""

    def __init__(self, read: Callable[[str], bytes], name: Callable[[str], str] = str) -> None:
        """Make thumbnails of images.

        Args:
            read: returns the file of an image id.
            name: returns the name of an image id that people read; by default the id itself.
        """
        self._read, self.name = read, name
        self._tags: dict[str, str] = {}

    def tag(self, image_id: str) -> str:
        """An ``img`` element, or the reason why the image cannot be read."""
        if image_id not in self._tags:
            name = escape(visible(self.name(image_id)))
            try:
                data = base64.b64encode(thumbnail(self._read(image_id))).decode()
                tag = f'<img src="data:image/jpeg;base64,{data}" alt="{name}" title="{name}">'
            except (ImageError, CorpusError, OSError) as error:
                tag = f'<span class="missing">{name}: {escape(visible(str(error)))}</span>'
            self._tags[image_id] = tag
        return self._tags[image_id]


@dataclass(frozen=True, kw_only=True)
class ShownGallery:
    """Images with captions in one language, as a page shows them."""

    image_ids: Sequence[str]
    texts: Sequence[str]
    """The captions."""
    caption_ids: Sequence[str]
    """Names of the captions."""
    image_of: np.ndarray
    """int64 ``[n_captions]``, the index of each caption's image."""
    lang: str
    """Language of the captions."""


class MissedQueriesHtml:
    """Renders missed queries of one gallery."""

    def __init__(self, gallery: ShownGallery, thumbnails: Thumbnails) -> None:
        self.gallery = gallery
        self._thumbnails = thumbnails
        self.captions_of = [np.flatnonzero(gallery.image_of == row) for row in range(len(gallery.image_ids))]
        """For each image, the rows of its captions, int64."""

    def captions(self, result: MissedQueries) -> str:
        """Articles of text queries that missed their image."""
        return "".join(self._caption(number, missed, result) for number, missed in enumerate(result.worst, 1))

    def images(self, result: MissedQueries) -> str:
        """Articles of image queries that missed all their captions."""
        return "".join(self._image(number, missed, result) for number, missed in enumerate(result.worst, 1))

    def _caption(self, number: int, missed: MissedQuery, result: MissedQueries) -> str:
        figures = [self._figure(found, right=found.row == missed.expected.row) for found in missed.retrieved]
        return _CAPTION.substitute(
            anchor=f"caption-{number}",
            number=number,
            text=self.text(missed.query),
            facts=escape(_facts(missed, result, self.gallery.caption_ids[missed.query])),
            expected=self._figure(missed.expected, right=True),
            found="".join(figures),
        )

    def _image(self, number: int, missed: MissedQuery, result: MissedQueries) -> str:
        own = self.captions_of[missed.query]
        return _IMAGE.substitute(
            anchor=f"image-{number}",
            number=number,
            facts=escape(visible(_facts(missed, result, self._thumbnails.name(self.gallery.image_ids[missed.query])))),
            image=self.image(missed.query),
            own="".join(self._own(int(row), right=row == missed.expected.row) for row in own),
            found="".join(
                f"<li>{self.image(int(self.gallery.image_of[found.row]))}"
                f'<p><span class="score">{found.score:.3f}</span> {self.text(found.row)}</p></li>'
                for found in missed.retrieved
            ),
        )

    def _own(self, row: int, *, right: bool) -> str:
        """One of the image's captions; the highest-ranked one is marked."""
        mark = ' class="right"' if right else ""
        rank = " (ranked highest)" if right else ""
        return f"<li{mark}>{self.text(row)}{rank}</li>"

    def _figure(self, found: ScoredItem, *, right: bool) -> str:
        """A gallery image with its score and its first caption."""
        own = self.captions_of[found.row]
        caption = self.text(int(own[0])) if len(own) else ""
        return (
            f"<figure{' class=right' if right else ''}>{self.image(found.row)}<figcaption>"
            f'<span class="score">{found.score:.3f}</span> {caption}</figcaption></figure>'
        )

    def image(self, row: int) -> str:
        """The ``img`` element of an image."""
        return self._thumbnails.tag(self.gallery.image_ids[row])

    def text(self, row: int) -> str:
        """A caption, marked with its language and direction of writing."""
        return f'<span lang="{escape(self.gallery.lang)}" dir="auto">{escape(visible(self.gallery.texts[row]))}</span>'


def missed_summary(result: MissedQueries, queries: str, expected: str, gallery: str) -> str:
    """A sentence with the numbers of missed and of shown queries.

    Args:
        queries: what queries are, such as ``captions``; ``expected``, what each of them expects; ``gallery``, what is
            searched.
    """
    worst = result.worst
    shown = f"the {len(worst):,} worst are shown" if len(worst) < result.missed else "all are shown"
    return (
        f"Of {result.queries:,} {queries}, {result.missed:,} do not have their own {expected} as the top result"
        f" among {result.gallery:,} {gallery}; {shown}."
    )


def _facts(missed: MissedQuery, result: MissedQueries, name: str) -> str:
    return (
        f"expected result at rank {missed.rank + 1:,} of {result.gallery:,}, score {missed.expected.score:.3f}; "
        f"top result scores {missed.retrieved[0].score:.3f} · {name}"
    )


def html_page(title: str, body: str, style: str = "") -> str:
    """A whole page, which loads nothing and runs nothing.

    Args:
        title: as text; it is escaped.
        body: as HTML.
        style: CSS that follows that of all pages.
    """
    return _PAGE.substitute(title=escape(title), body=body, style=style)


_CAPTION = Template("""
<article id="$anchor">
<h3><a href="#$anchor">$number</a> $text</h3>
<p class="facts">$facts</p>
<div class="strip">$expected<div class="found" role="group" aria-label="retrieved">$found</div></div>
</article>""")

_IMAGE = Template("""
<article id="$anchor">
<h3><a href="#$anchor">$number</a> <span class="facts">$facts</span></h3>
<div class="strip"><figure class="right">$image</figure><ul class="own" aria-label="expected">$own</ul></div>
<ol class="captions" aria-label="retrieved">$found</ol>
</article>""")

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --faint: #6a6a6a; --line: #d9d9d9; --right: #16833a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e6e6e6; --faint: #9a9a9a; --line: #36393e; --right: #4cc274; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 0 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 1.5rem 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .2rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0; }
nav { position: sticky; top: 0; z-index: 1; padding: .6rem 0; background: var(--paper);
  border-bottom: 1px solid var(--line); }
nav a { margin-right: 1.5rem; }
a { color: inherit; }
a:focus-visible { outline: 3px solid var(--right); outline-offset: 2px; }
section, article { scroll-margin-top: 3.2rem; }
article { padding: 1.1rem 0; border-bottom: 1px solid var(--line); }
article h3 a { display: inline-block; min-width: 1.8rem; color: var(--faint); text-decoration: none; }
.facts, .summary, figcaption { color: var(--faint); font-size: .85rem; }
.facts { font-weight: normal; overflow-wrap: anywhere; }
p.facts { padding-left: 2rem; }
h3, p.facts { margin-bottom: .3rem; }
.strip { margin-top: .6rem; }
.strip { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; padding-left: 2rem; }
.found { display: flex; flex-wrap: wrap; gap: 1rem; padding-left: 1.4rem; border-left: 1px solid var(--line); }
figure { margin: 0; width: 160px; }
figcaption { margin-top: .4rem; }
figcaption { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
img { display: block; max-width: 160px; max-height: 160px; border-radius: 3px; }
.right img { outline: 3px solid var(--right); outline-offset: 1px; }
.score { font-variant-numeric: tabular-nums; color: var(--ink); }
ul.own { margin: 0; padding-left: 1.1rem; flex: 1 1 20rem; }
li.right { color: var(--right); }
ol.captions { list-style: none; margin: .8rem 0 0; padding-left: 2rem; }
ol.captions li { display: flex; gap: .8rem; align-items: center; margin-top: .4rem; }
ol.captions img { width: 64px; height: 48px; object-fit: cover; }
.missing { display: block; font-size: .8rem; color: var(--faint); overflow-wrap: anywhere; }
$style</style>
</head>
<body>
$body
</body>
</html>
""")
