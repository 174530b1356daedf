"""The worst queries of a data set as a self-contained HTML file."""

from html import escape
from string import Template

from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.evaluation.missed_queries import MissedQueries
from llm2clip_search.evaluation.missed_queries_html import (
    MissedQueriesHtml,
    ShownGallery,
    Thumbnails,
    html_page,
    missed_summary,
)


def missed_queries_page(
    dataset: RetrievalSet, lang: str, *, model: str, captions: MissedQueries, images: MissedQueries
) -> str:
    """Render the page.

    Args:
        captions: missed text queries; rows are those of ``dataset``.
        images: missed image queries, with the captions in ``lang`` as gallery.
    """
    own, ids = dataset.captions[lang], list(dataset.images)
    gallery = ShownGallery(
        image_ids=ids, texts=own.texts, caption_ids=own.caption_ids, image_of=own.rows_in(ids), lang=lang
    )
    shown = MissedQueriesHtml(gallery, Thumbnails(dataset.images.read))
    split = f" {dataset.split}" if dataset.split else ""
    body = _BODY.substitute(
        heading=escape(f"{model} on {dataset.name}{split}, {lang}"),
        captions_summary=escape(missed_summary(captions, "captions", "image", "images")),
        images_summary=escape(missed_summary(images, "images", "caption", "captions")),
        captions=shown.captions(captions),
        images=shown.images(images),
    )
    return html_page(f"{model} on {dataset.name}{split}, {lang}: worst queries", body)


_BODY = Template("""<h1>$heading</h1>
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
</main>""")
