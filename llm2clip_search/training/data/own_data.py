"""Own data: images with captions from any source, checked, merged by content and split, as folders of a run hold them.

``images.parquet`` has split, content hash, URI (as `store.names` writes it) and version of every image,
``captions.parquet`` its captions, ``left_out.jsonl`` what was not used and why, and ``data.json`` the counts. Rows are
sorted by content, so that the same images and captions give the same training, however their source is laid out. Images
are not copied.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import replace_file, replaced_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.corpora import Corpus
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.decode import Decoded, decode_ahead
from llm2clip_search.corpora.listed import ListCorpus
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.corpora.table_formats import TABLE_SUFFIXES
from llm2clip_search.errors import CorpusError, Llm2ClipError, first_line
from llm2clip_search.store.names import encode
from llm2clip_search.training.data.caption_table import EMPTY, CaptionSource
from llm2clip_search.training.data.left_out import write_left_out
from llm2clip_search.training.data.near_duplicates import THUMBNAIL, near_duplicates, small_version
from llm2clip_search.training.data.own_captions import (
    CaptionFile,
    ItemsOfSplit,
    beside,
    captions_of,
    texts_without_image,
)
from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnData, OwnSource
from llm2clip_search.training.data.recipe import DataRecipe, DevSplit

BROKEN, UNREADABLE = "broken images", "files that cannot be read"
IMAGES, CAPTIONS, COUNTS = "images.parquet", "captions.parquet", "data.json"
FEWEST = 2
"""Images of a split: a contrastive batch needs at least two."""
_AHEAD = 64
_TABLES = tuple(TABLE_SUFFIXES)


@dataclass(kw_only=True)
class OwnImages:
    """Images of a split by content hash, with their captions."""

    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    """URI and version by content hash."""
    captions: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)
    """Language and text of the captions by content hash."""
    versions: dict[str, np.ndarray] = field(default_factory=dict)
    """Small versions by content hash, if near-duplicates are looked for; see `small_version`."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """Reason, name, and details of what is not used."""
    without: dict[str, str] = field(default_factory=dict)
    """URIs of images that no source of the split has captions for, by content hash."""

    def leave_out(self, reason: str, name: str, detail: str = "") -> None:
        self.left_out.append((reason, name, detail))

    def keep(self, contents: Sequence[str]) -> "OwnImages":
        """The images with these content hashes."""
        return OwnImages(
            places={content: self.places[content] for content in contents},
            captions={content: self.captions[content] for content in contents},
            versions={content: self.versions[content] for content in contents} if self.versions else {},
        )

    def drop(self, content: str) -> None:
        """Forget the image with a content hash."""
        del self.places[content], self.captions[content]
        self.versions.pop(content, None)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Content hash, language and text of every caption, sorted."""
        return sorted((content, *caption) for content, found in self.captions.items() for caption in found)


@dataclass(frozen=True, kw_only=True)
class OwnSplits:
    """Images that are trained on, ``val``, and the sets for evaluation by name."""

    splits: Mapping[str, OwnImages]
    left_out: list[tuple[str, str, str]]

    @property
    def digest(self) -> str:
        """Equal for equal images and captions in each split, whatever their source."""
        return json_sha256({name: images.rows for name, images in self.splits.items()})[:16]

    def counts(self) -> dict[str, int]:
        """What was found, by name."""
        found = {}
        for name, images in self.splits.items():
            found[f"{name} images"] = len(images.places)
            found[f"{name} captions"] = len(images.rows)
        return found | dict(Counter(reason for reason, _, _ in self.left_out))


def read_own_data(
    data: OwnData, evaluation: Sequence[EvaluationSource], *, folder: Path, progress: Progress
) -> OwnSplits:
    """Read all sources, leave out what cannot be used, and split.

    An image of ``val`` or of a set for evaluation is not trained on, whatever its name.

    Args:
        folder: that paths of sources are relative to.

    Raises:
        CorpusError: a source is missing or has no images with captions, or nothing is left to train on.
    """
    compares = data.near_duplicates > 0
    train = _read(data.train, folder, progress, compares)
    others = {"val": _read(data.val, folder, progress, compares)} if data.val else {}
    others |= {each.name: _read([each], folder, progress, compares) for each in evaluation}
    _leave_out_without_captions([train, *others.values()])
    left_out = train.left_out
    for name, images in others.items():
        both = sorted(train.places.keys() & images.places.keys())
        for content in both:
            left_out.append(
                (f"training images that are in {name}", train.places[content][0], images.places[content][0])
            )
            train.drop(content)
        left_out += images.left_out
    if not data.val:
        train, val = _split(train, data)
        others = {"val": val, **others}
    for name, images in others.items() if compares else ():
        for content, other, cosine in list(near_duplicates(train.versions, images.versions, data.near_duplicates)):
            detail = f"{images.places[other][0]}, cosine {cosine:.3f}"
            left_out.append((f"near-duplicates of {name}", train.places[content][0], detail))
            train.drop(content)
    splits = {"train": train, **others}
    for name, images in splits.items():
        if len(images.places) < FEWEST:
            first = f"; left out is, for example, {left_out[0][1]} ({left_out[0][0]})" if left_out else ""
            raise CorpusError(
                f"Too few images with captions are left of {_named(data, evaluation, name)} for {name}:"
                f" {len(images.places)}, and at least {FEWEST} are needed{first}."
            )
    return OwnSplits(splits=splits, left_out=left_out)


def listing_of(data: OwnData, evaluation: Sequence[EvaluationSource], *, folder: Path) -> str:
    """A digest of how data is split and of what sources list, which changes with their files; nothing is read but
    lists and sizes.

    Raises:
        CorpusError: a source is missing.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps([data.val_share, data.seed, data.near_duplicates]).encode())
    for source in (*data.train, *data.val, *evaluation):
        digest.update(json.dumps(asdict(source), sort_keys=True).encode())
        for corpus, captions in _opened(source, folder):
            for item in corpus.items():
                files = [captions] if captions else beside(item.uri)
                stats = [(each.stat().st_size, each.stat().st_mtime_ns) for each in files if each.exists()]
                digest.update(
                    f"{item.uri} {item.version} {item.described} {stats}\n".encode("utf-8", "surrogateescape")
                )
    return digest.hexdigest()


def write_own_data(splits: OwnSplits, out: Path, listing: str) -> None:
    """Write the folder; ``data.json`` comes last and makes it complete."""
    out.mkdir(parents=True, exist_ok=True)
    images = [
        (name, content, encode(uri), version)
        for name, found in splits.splits.items()
        for content, (uri, version) in sorted(found.places.items())
    ]
    captions = [(name, *row) for name, found in splits.splits.items() for row in found.rows]
    for file, columns, rows in (
        (IMAGES, ("split", "image_id", "uri", "version"), images),
        (CAPTIONS, ("split", "image_id", "lang", "caption"), captions),
    ):
        values = list(zip(*rows, strict=True))
        table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(columns, values, strict=True)})
        with replaced_file(out / file) as temporary:
            pq.write_table(table, temporary)
    write_left_out(out, splits.left_out)
    summary = {"listing": listing, "digest": splits.digest, "counts": splits.counts()}
    replace_file(out / COUNTS, json.dumps(summary, indent=1).encode() + b"\n")


def own_data_recipe(data: OwnData, evaluation: Sequence[EvaluationSource]) -> DataRecipe:
    """The data part of a recipe for the folder that `write_own_data` wrote."""
    captions = CaptionSource(path=CAPTIONS, split="train")

    def dev(name: str, *, selects: bool) -> DevSplit:
        return DevSplit(
            name=name, captions=CaptionSource(path=CAPTIONS, split=name), images=(f"{IMAGES}#{name}",), selects=selects
        )

    return DataRecipe(
        captions=(captions,),
        images=(f"{IMAGES}#train",),
        image_captions=(captions,),
        long=data.long,
        dev=(dev("val", selects=True), *(dev(each.name, selects=False) for each in evaluation)),
    )


def _opened(source: OwnSource, folder: Path) -> Iterator[tuple[Corpus, Path | None]]:
    """The corpora of a source, each with the table of its captions if there is one."""
    place = source.source if "://" in source.source else str(folder / Path(source.source).expanduser())
    for corpus in open_corpora([place], SourceOptions(exclude=source.exclude)):
        if source.captions:
            yield corpus, folder / Path(source.captions).expanduser()
        else:
            is_local = isinstance(corpus, ListCorpus) and "://" not in corpus.uri
            yield corpus, Path(corpus.uri) if is_local and corpus.uri.casefold().endswith(_TABLES) else None


def _read(sources: Sequence[OwnSource], folder: Path, progress: Progress, compares: bool) -> OwnImages:
    out = OwnImages()
    for source in sources:
        readable = 0
        split = ItemsOfSplit(source) if source.split else None
        for corpus, table in _opened(source, folder):
            captions = CaptionFile(table, source) if table else None
            listed = _items(corpus, out)
            if split and not captions:  # a table of captions says itself which rows are of the split
                listed = split.of(listed)
            looked = decode_ahead(corpus, listed, THUMBNAIL, threads=os.cpu_count() or 1, ahead=_AHEAD)
            for done, decoded in enumerate(looked, 1):
                progress("looking at images", done, done + 1, {})
                readable += decoded.error is None
                _take(decoded, out, source, captions, corpus.uri)
                if compares and decoded.pixels is not None and decoded.content_hash in out.places:
                    out.versions.setdefault(decoded.content_hash, small_version(decoded.pixels))
            out.left_out += _unused(corpus, captions)
        if split:
            split.check()
        if not readable:
            broken = [row for row in out.left_out if row[0] in (BROKEN, UNREADABLE)]
            why = f", such as {broken[-1][1]}: {broken[-1][0]}" if broken else ""
            raise CorpusError(f"{source.source} has no images that can be read{why}.")
    if not out.places:
        names = " and ".join(each.source for each in sources)
        unused = [(where, key) for why, where, key in out.left_out if why == "captions without an image"]
        why = f"; {unused[0][0]} names {unused[0][1]!r}, which is none of them" if unused else ""
        example = next(iter(out.without.values()))
        raise CorpusError(f"None of the {len(out.without):,} images of {names}, such as {example}, has a caption{why}.")
    return out


def _leave_out_without_captions(splits: Sequence[OwnImages]) -> None:
    """Leave out, once each, the images that no split has captions for: of one table, each split has its own rows."""
    passed = {content for images in splits for content in images.places}
    for images in splits:
        for content, uri in images.without.items():
            if content not in passed:
                passed.add(content)
                images.leave_out("images without captions", uri)


def _unused(corpus: Corpus, captions: CaptionFile | None) -> Iterator[tuple[str, str, str]]:
    """What a source says of images beyond those that were taken, once all have passed."""
    if captions:
        yield from (("captions without an image", where, key) for key, where in captions.unused())
        return
    yield from (("text files without an image", str(text), "") for text in texts_without_image(corpus.uri))
    for reason, count in corpus.skipped().notes.items() if isinstance(corpus, ListCorpus) else ():
        yield from [(reason, corpus.uri, "")] * count


def _items(corpus: Corpus, out: OwnImages) -> Iterator[Item]:
    for item in corpus.items():
        if not item.is_container:
            yield item
            continue
        try:
            yield from corpus.parts(item)
        except (OSError, Llm2ClipError) as error:
            out.leave_out(UNREADABLE, item.uri, first_line(error))


def _take(
    decoded: Decoded,
    out: OwnImages,
    source: OwnSource,
    table: CaptionFile | None,
    folder: str,
) -> None:
    """Add an image with its captions, unless it cannot be read or has none."""
    item = decoded.item
    if decoded.error is not None:
        out.leave_out(BROKEN, item.uri, first_line(decoded.error))
        return
    content = decoded.content_hash
    found = table.of(item.uri, content, folder) if table else captions_of(decoded, source)
    known = out.captions.setdefault(content, {})
    for lang, text, place in found:
        if not text and (item.columns or table):  # an empty line of a text file is no caption
            out.leave_out(EMPTY, place, item.uri)
        elif (lang, text) in known:
            out.leave_out("repeated captions", place, text)
        elif text:
            known[lang, text] = None
    if not known:
        del out.captions[content]
        out.without[content] = item.uri
    elif content in out.places:
        out.leave_out("copies of an image", item.uri, out.places[content][0])
    else:
        out.places[content] = (item.uri, item.version)


def _split(images: OwnImages, data: OwnData) -> tuple[OwnImages, OwnImages]:
    """Take a share of the photographs for validation, drawn by their content, so that it does not depend on names."""

    def drawn(content: str) -> bytes:
        return hashlib.blake2b(f"{data.seed} {content}".encode(), digest_size=8).digest()

    order = sorted(images.places, key=drawn)
    count = min(max(FEWEST, round(data.val_share * len(order))), max(0, len(order) - FEWEST))
    return images.keep(order[count:]), images.keep(order[:count])


def _named(data: OwnData, evaluation: Sequence[EvaluationSource], name: str) -> str:
    sets: Mapping[str, Sequence[OwnSource]] = {each.name: [each] for each in evaluation} | {"val": data.val}
    return " and ".join(each.source for each in sets.get(name) or data.train)


def read_summary(out: Path) -> dict[str, Any]:
    """What `write_own_data` wrote of its sources and counts; empty if it has not been written."""
    try:
        found: dict[str, Any] = json.loads((out / COUNTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
