"""The page of a run: one HTML file that loads nothing, with curves, similarities and the worst pairs of validation."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.vectors import top_k
from llm2clip_search.evaluation.metrics import NEVER, cosine_scores, ranks_of_best
from llm2clip_search.evaluation.missed_queries import worst_queries_both_ways
from llm2clip_search.evaluation.missed_queries_html import (
    MissedQueriesHtml,
    ShownGallery,
    Thumbnails,
    html_page,
    missed_summary,
)
from llm2clip_search.training.model_card import RECALLS
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.runtime.plots import draw_curves
from llm2clip_search.training.tasks.clip_data import DevVectors

PAGE = "run.html"
"""Name of the page in the folder of a run."""
WORST = 8
"""Missed queries that are shown, of captions and of images each."""
COMPARED = 16
"""Images in a similarity matrix."""
CHANGED = 8
"""Images whose nearest captions are shown."""
NEAREST = 3
"""Captions that are shown of each of them."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the head of the page says."""

    name: str
    """Of the model that is trained."""
    steps: int
    """Of the whole run."""
    start: str = ""
    """The model that training began from; empty for none."""
    before: str = "before training"
    """What the page calls the model's state before the first step."""
    counts: Mapping[str, int]
    """Of the data, by name."""


class RunPage:
    """Writes the page of a run, whose parts come from its log and from vectors of the first dev split."""

    def __init__(self, path: Path, log: Path, facts: RunFacts, before: DevVectors | None) -> None:
        """Prepare a page.

        Args:
            path: the file to write.
            log: folder with the run's ``metrics.jsonl``.
            before: vectors of the model that training began from; None for none.
        """
        self.path, self._log, self._facts, self._before = path, log, facts, before
        self._thumbnails: Thumbnails | None = None

    def write(self, now: DevVectors | None, step: int) -> None:
        """Write the page anew, in place of the one before.

        Args:
            now: vectors of the evaluated weights; None without a dev split.
            step: completed steps at that evaluation.
        """
        lines = read_metrics(self._log / "metrics.jsonl")
        facts = self._facts
        body = _HEAD.substitute(
            heading=escape(facts.name),
            facts=escape(_sentences(facts, step)),
            counts=escape("; ".join(f"{count:,} {what}" for what, count in facts.counts.items() if count)),
            links=_LINKS if now is not None else "",
            recalls=_recalls(lines, facts.before),
            curves=_curves(lines),
        )
        if now is not None:
            self._thumbnails = self._thumbnails or Thumbnails(now.dev.files.read, now.dev.files.name)
            body += _pairs(now, self._before, facts.before, self._thumbnails)
        replace_file(self.path, html_page(f"Training of {facts.name}", body, _STYLE).encode("utf-8", "replace"))


def _sentences(facts: RunFacts, step: int) -> str:
    began = f" Training began from {facts.start}." if facts.start else ""
    return f"After step {step:,} of {facts.steps:,}.{began}"


def _recalls(lines: Sequence[Mapping[str, Any]], before: str) -> str:
    """A table of recalls before the first step, and of the best evaluation so far."""
    found = [line for line in lines if line.get("dev/mean_recall") is not None]
    if not found:
        return ""
    first, best = found[0], max(found, key=lambda line: float(line["dev/mean_recall"]))
    groups = dict.fromkeys(name.split("/", 1)[1].rpartition("/")[0] for name in first if name.count("/") == 3)
    shown = [(before, first)] * (first["step"] == 0)
    shown += [(f"step {best['step']:,}, the best so far", best)] * (best["step"] > 0)
    rows = [
        f"<tr><th scope=row>{escape(', '.join(group.split('/')))}</th><td class=when>{when}</td>"
        + "".join(f"<td>{_percent(line.get(f'dev/{group}/{recall}'))}</td>" for recall in RECALLS)
        + "</tr>"
        for group in groups
        for when, line in shown
    ]
    return _RECALLS.substitute(rows="".join(rows))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    picture = draw_curves([dict(line) for line in lines])
    if not picture:
        return "<p class=summary>There are no curves yet, or matplotlib is missing.</p>"
    data = base64.b64encode(picture).decode()
    return f'<img class=curves src="data:image/png;base64,{data}" alt="Loss, learning rate and recalls by step">'


def _pairs(now: DevVectors, before: DevVectors | None, when: str, thumbnails: Thumbnails) -> str:
    """Everything that is shown of the vectors; ``when`` names those before the first step."""
    ids = now.dev.image_ids
    names = [f"{thumbnails.name(ids[image])}, caption {row}" for row, image in enumerate(now.image_of.tolist())]
    gallery = ShownGallery(
        image_ids=ids, texts=now.dev.texts[now.lang], caption_ids=names, image_of=now.image_of, lang=now.lang
    )
    html = MissedQueriesHtml(gallery, thumbnails)
    by_captions, by_images = worst_queries_both_ways(now.images, now.captions, now.image_of, count=WORST)
    return _PAIRS.substitute(
        split=escape(f"{now.dev.name}, {now.lang}"),
        nearest=_nearest(now, before, html),
        matrices=_matrices({when.capitalize(): before, "Now": now}, html),
        captions_summary=escape(missed_summary(by_captions, "captions", "image", "images")),
        images_summary=escape(missed_summary(by_images, "images", "caption", "captions")),
        captions=html.captions(by_captions),
        images=html.images(by_images),
    )


def _nearest(now: DevVectors, before: DevVectors | None, html: MissedQueriesHtml) -> str:
    """The images whose own captions have changed their rank most, with their nearest captions."""
    rows = np.arange(len(now.images))
    after = ranks_of_best(now.images, now.captions, rows, now.image_of)
    former = after if before is None else ranks_of_best(before.images, before.captions, rows, before.image_of)
    moved = np.where(after == NEVER, -1, np.abs(after - former))
    found = []
    for number, image in enumerate(np.argsort(-moved, kind="stable")[:CHANGED].tolist(), 1):
        if after[image] == NEVER:
            break
        columns = [("before", former, before)] if before is not None else []
        lists = "".join(
            f"<div><h4>{when}: own caption at rank {ranks[image] + 1:,}</h4>"
            f"<ol class=near>{_nearest_captions(vectors, image, html)}</ol></div>"
            for when, ranks, vectors in (*columns, ("now", after, now))
            if vectors is not None
        )
        own = "".join(f"<li>{html.text(int(row))}</li>" for row in html.captions_of[image])
        found.append(_NEAR.substitute(number=number, image=html.image(image), own=own, lists=lists))
    return "".join(found)


def _nearest_captions(vectors: DevVectors, image: int, html: MissedQueriesHtml) -> str:
    scores = cosine_scores(vectors.images[[image]], vectors.captions)
    (near,) = top_k(scores, NEAREST)[1].tolist()
    return "".join(
        f"<li{' class=right' if vectors.image_of[row] == image else ''}>"
        f'<span class="score">{scores[0, row]:.3f}</span> {html.text(row)}</li>'
        for row in near
    )


def _matrices(named: Mapping[str, DevVectors | None], html: MissedQueriesHtml) -> str:
    """Similarities of the first images with the first caption of each; both matrices have one scale of colours."""
    images = [row for row, own in enumerate(html.captions_of) if len(own)][:COMPARED]
    captions = [int(html.captions_of[image][0]) for image in images]
    found = {w: cosine_scores(v.images[images], v.captions[captions]) for w, v in named.items() if v is not None}
    low, high = min(map(np.min, found.values())), max(map(np.max, found.values()))
    return "".join(
        _matrix(when, scores, (scores - low) / max(high - low, 1e-6), images, captions, html)
        for when, scores in found.items()
    )


def _matrix(
    when: str, scores: np.ndarray, shades: np.ndarray, images: list[int], captions: list[int], html: MissedQueriesHtml
) -> str:
    head = "".join(f"<th scope=col>{number}</th>" for number in range(1, len(images) + 1))
    rows = []
    for number, image in enumerate(images):
        cells = "".join(
            f'<td{" class=own" if column == number else ""} style="--shade: {100 * shade:.0f}%">{100 * score:.0f}</td>'
            for column, (score, shade) in enumerate(zip(scores[number].tolist(), shades[number].tolist(), strict=True))
        )
        rows.append(
            f"<tr><th scope=row>{number + 1}</th><td class=picture>{html.image(image)}</td>{cells}"
            f"<td class=caption>{html.text(captions[number])}</td></tr>"
        )
    return _MATRIX.substitute(when=when, head=head, rows="".join(rows))


_HEAD = Template("""<h1>$heading</h1>
<p class="summary">$facts Data: $counts.</p>
$links<section id="training">
<h2>Training</h2>
$recalls
$curves
</section>
""")

_LINKS = """<nav><a href="#training">Training</a> <a href="#nearest">Nearest captions</a>
<a href="#matrix">Similarity matrix</a> <a href="#captions">Captions that miss their image</a>
<a href="#images">Images that miss all their captions</a></nav>
"""

_RECALLS = Template("""<div class="wide"><table class="recalls">
<thead><tr><th scope="col" rowspan="2">split, language</th><th rowspan="2"></th>
<th scope="colgroup" colspan="3">image_retrieval R@1, 5, 10 (%)</th>
<th scope="colgroup" colspan="3">text_retrieval R@1, 5, 10 (%)</th></tr></thead>
<tbody>$rows</tbody></table></div>""")

_PAIRS = Template("""<section id="nearest">
<h2>Nearest captions</h2>
<p class="summary">Images of $split whose own captions changed their rank most, and the captions that are nearest to
them; own captions are green.</p>
$nearest
</section>
<section id="matrix">
<h2>Similarity matrix</h2>
<p class="summary">100 times the cosine of an image (row) and a caption (column); own pairs are on the diagonal.</p>
$matrices
</section>
<section id="captions">
<h2>Captions that miss their image</h2>
<p class="summary">$captions_summary The expected image comes first, framed in green; then the top results.</p>
$captions
</section>
<section id="images">
<h2>Images that miss all their captions</h2>
<p class="summary">$images_summary</p>
$images
</section>""")

_NEAR = Template("""
<article>
<div class="strip"><figure>$image</figure><div><h4>Image $number</h4><ul class="own">$own</ul></div>$lists</div>
</article>""")

_MATRIX = Template("""<div class="wide"><table class="matrix"><caption>$when</caption>
<thead><tr><th></th><td></td>$head<td></td></tr></thead><tbody>$rows</tbody></table></div>""")

_STYLE = """img.curves { max-width: 100%; max-height: none; width: 56rem; background: #fff; margin-top: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
table.recalls th, table.recalls td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
table.recalls th[scope=row], table.recalls th[rowspan], td.when { text-align: left; }
td.when { color: var(--faint); }
table.matrix caption, h4 { text-align: left; font-size: .85rem; font-weight: 600; margin: 0 0 .3rem; }
table.matrix td, table.matrix th { padding: .15rem .2rem; font-size: .75rem; font-weight: normal; text-align: right; }
table.matrix td[style] { min-width: 1.9rem; text-align: center;
  background: color-mix(in srgb, var(--heat) var(--shade), var(--paper)); }
table.matrix td.own { outline: 2px solid var(--right); outline-offset: -2px; }
table.matrix td.caption { text-align: left; min-width: 14rem; color: var(--faint); }
td.picture img { width: 36px; height: 28px; object-fit: cover; }
:root { --heat: #f0a35c; }
@media (prefers-color-scheme: dark) { :root { --heat: #8a4b12; } }
#nearest .strip > div { flex: 1 1 14rem; }
ol.near { margin: 0; padding-left: 1.2rem; }
ol.near .score { color: inherit; }
"""
