"""The worst queries as a self-contained HTML file: embedded thumbnails, no scripts, no network access.

Captions and ids are untrusted. Each is escaped, and a content security policy limits the damage of a missing escape.
"""

import base64
import io
from html import escape
from string import Template

import numpy as np
from PIL import Image

from llm2clip_search.base.visible import visible
from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.missed_queries import MissedQueries, MissedQuery, ScoredItem
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders.images import reading
from llm2clip_search.errors import ImageError

SIDE = 160
"""Longer side of a thumbnail in pixels."""
QUALITY = 80
"""JPEG quality of a thumbnail."""


def missed_queries_page(
    dataset: RetrievalSet, lang: str, *, model: str, captions: MissedQueries, images: MissedQueries
) -> str:
    """Render the page.

    Args:
        captions: missed text queries; rows are those of ``dataset``.
        images: missed image queries, with the captions in ``lang`` as gallery.
    """
    return _Page(dataset, lang).whole(model, captions, images)


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


class _Page:
    """Renders one data set in one language; each thumbnail is made when it is first needed."""

    def __init__(self, dataset: RetrievalSet, lang: str) -> None:
        self._dataset = dataset
        self._lang = lang
        self._captions = dataset.captions[lang]
        self._ids = list(dataset.images)
        image_of = self._captions.rows_in(self._ids)
        self._rows_of = [np.flatnonzero(image_of == row) for row in range(len(self._ids))]
        self._image_of = image_of
        self._thumbnails = _Thumbnails(dataset.images)

    def whole(self, model: str, captions: MissedQueries, images: MissedQueries) -> str:
        split = f" {self._dataset.split}" if self._dataset.split else ""
        return _PAGE.substitute(
            title=escape(f"{model} on {self._dataset.name}{split}, {self._lang}: worst queries"),
            heading=escape(f"{model} on {self._dataset.name}{split}, {self._lang}"),
            captions_summary=escape(_summary(captions, "captions", "image", "images")),
            images_summary=escape(_summary(images, "images", "caption", "captions")),
            captions="".join(self._caption(number, one, captions) for number, one in enumerate(captions.worst, 1)),
            images="".join(self._image(number, one, images) for number, one in enumerate(images.worst, 1)),
        )

    def _caption(self, number: int, missed: MissedQuery, result: MissedQueries) -> str:
        """A text query that missed its image."""
        figures = [self._figure(found, right=found.row == missed.expected.row) for found in missed.retrieved]
        return _CAPTION.substitute(
            anchor=f"caption-{number}",
            number=number,
            text=self._text(missed.query),
            facts=escape(_facts(missed, result, self._captions.caption_ids[missed.query])),
            expected=self._figure(missed.expected, right=True),
            found="".join(figures),
        )

    def _image(self, number: int, missed: MissedQuery, result: MissedQueries) -> str:
        """An image query that missed all its captions."""
        own = self._rows_of[missed.query]
        return _IMAGE.substitute(
            anchor=f"image-{number}",
            number=number,
            facts=escape(_facts(missed, result, self._ids[missed.query])),
            image=self._img(missed.query),
            own="".join(self._own(int(row), right=row == missed.expected.row) for row in own),
            found="".join(
                f'<li>{self._img(int(self._image_of[found.row]))}<p><span class="score">{found.score:.3f}</span> '
                f"{self._text(found.row)}</p></li>"
                for found in missed.retrieved
            ),
        )

    def _own(self, row: int, *, right: bool) -> str:
        """One of the image's captions; the highest-ranked one is marked."""
        mark = ' class="right"' if right else ""
        rank = " (ranked highest)" if right else ""
        return f"<li{mark}>{self._text(row)}{rank}</li>"

    def _figure(self, found: ScoredItem, *, right: bool) -> str:
        """A gallery image with its score and its first caption."""
        own = self._rows_of[found.row]
        caption = self._text(int(own[0])) if len(own) else ""
        return (
            f"<figure{' class=right' if right else ''}>{self._img(found.row)}<figcaption>"
            f'<span class="score">{found.score:.3f}</span> {caption}</figcaption></figure>'
        )

    def _img(self, row: int) -> str:
        return self._thumbnails.tag(self._ids[row])

    def _text(self, row: int) -> str:
        """A caption, marked with its language and direction of writing."""
        return f'<span lang="{escape(self._lang)}" dir="auto">{escape(visible(self._captions.texts[row]))}</span>'


class _Thumbnails:
    """Caches an ``img`` element per image."""

    def __init__(self, images: ImageFiles) -> None:
        self._images = images
        self._tags: dict[str, str] = {}

    def tag(self, image_id: str) -> str:
        if image_id not in self._tags:
            name = escape(visible(image_id))
            try:
                data = base64.b64encode(thumbnail(self._images.read(image_id))).decode()
                tag = f'<img src="data:image/jpeg;base64,{data}" alt="{name}" title="{name}">'
            except ImageError as error:
                tag = f'<span class="missing">{name}: {escape(visible(str(error)))}</span>'
            self._tags[image_id] = tag
        return self._tags[image_id]


def _facts(missed: MissedQuery, result: MissedQueries, name: str) -> str:
    return (
        f"expected result at rank {missed.rank + 1:,} of {result.gallery:,}, score {missed.expected.score:.3f}; "
        f"top result scores {missed.retrieved[0].score:.3f} · {name}"
    )


def _summary(result: MissedQueries, queries: str, expected: str, gallery: str) -> str:
    worst = result.worst
    shown = f"the {len(worst):,} worst are shown" if len(worst) < result.missed else "all are shown"
    return (
        f"Of {result.queries:,} {queries}, {result.missed:,} do not have their own {expected} as the top result"
        f" among {result.gallery:,} {gallery}; {shown}."
    )


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
</style>
</head>
<body>
<h1>$heading</h1>
<p class="summary">Ranks count from 1. The expected result is marked in green. Next to it or below it are the top
results, best first, with their cosine similarity. Tab moves from query to query.</p>
<nav><a href="#captions">Captions that miss their image</a>
<a href="#images">Images that miss all their captions</a></nav>
<main>
<section id="captions">
<h2>Captions that miss their image</h2>
<p class="summary">$captions_summary</p>
$captions
</section>
<section id="images">
<h2>Images that miss all their captions</h2>
<p class="summary">$images_summary</p>
$images
</section>
</main>
</body>
</html>
""")
