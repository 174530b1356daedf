"""The multilingual data sets in their authors' layouts, complete and broken."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.datasets.multilingual import CROSSMODAL_LANGS, DATASETS, XTD10_LANGS
from llm2clip_search.errors import CorpusError
from tests.support.layouts import jpeg, write_images

INFO = {info.name: info for info in DATASETS}


def open_set(name: str, root: Path, split: str = "", langs: Sequence[str] = ()) -> RetrievalSet:
    return INFO[name].open(root, split=split, langs=langs)


def pairs(found: RetrievalSet, lang: str) -> list[tuple[str, str]]:
    captions = found.captions[lang]
    return list(zip(captions.image_ids, captions.texts, strict=True))


def write(path: Path, text: str) -> Path:
    """A text file, gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_the_sets_are_named_as_clip_benchmark_names_them_and_tell_what_to_fetch(tmp_path: Path) -> None:
    assert list(INFO) == ["multi30k", "xtd10", "xtd200", "crossmodal3600"]
    for info in DATASETS:
        with pytest.raises(CorpusError) as error:
            info.open(tmp_path)
        assert error.value.hint.endswith(info.fetch)


# Multi30k

FLICKR = ["1007129816.jpg", "101362133.jpg", "17186135.jpg"]


def multi30k(root: Path, *, suffix: str = ".gz", folder: str = "flickr30k-images") -> Path:
    task1, task2 = root / "data" / "task1", root / "data" / "task2"
    for split, names in (("test_2016_flickr", FLICKR), ("val", FLICKR[:2]), ("train", FLICKR[:1])):
        write(task1 / "image_splits" / f"{split}.txt", "".join(f"{name}\n" for name in names))
        for lang in ("en", "de", "fr", "cs"):
            lines = "".join(f"{lang} of {name}\u2028.\n" for name in names)
            write(task1 / "raw" / f"{split}.{lang}{suffix}", lines)
    write(task2 / "image_splits" / "test_2016_images.txt", "".join(f"{name}\n" for name in FLICKR))
    for number in range(1, 6):
        for lang in ("en", "de"):
            lines = "".join(f"{lang} {number} of {name}.\n" for name in FLICKR)
            write(task2 / "raw" / f"test_2016.{number}.{lang}{suffix}", lines)
    write_images(root / folder, [*FLICKR, "of-no-split.jpg"])
    return root


@pytest.mark.parametrize(("suffix", "folder"), [(".gz", "flickr30k-images"), ("", "flickr30k_images")])
def test_multi30k_has_one_caption_per_image_and_its_translations(tmp_path: Path, suffix: str, folder: str) -> None:
    found = open_set("multi30k", multi30k(tmp_path, suffix=suffix, folder=folder), langs=["de", "cs"])
    assert (found.split, list(found.captions), list(found.images)) == ("test_2016_flickr", ["de", "cs"], FLICKR)
    for lang in ("de", "cs"):
        assert pairs(found, lang) == [(name, f"{lang} of {name}\u2028.") for name in FLICKR]
    assert found.images.read(FLICKR[2]) == jpeg(2)
    assert any("use 1,000" in note for note in found.notes)
    assert list(open_set("multi30k", tmp_path, "val").images) == FLICKR[:2]
    assert list(open_set("multi30k", tmp_path, "train").images) == FLICKR[:1]


def test_multi30k_of_task_2_has_five_captions_per_image(tmp_path: Path) -> None:
    root = multi30k(tmp_path)
    found = open_set("multi30k", root, "test_2016", ["en", "de"])
    expected = sorted((name, f"de {number} of {name}.") for name in FLICKR for number in range(1, 6))
    assert sorted(pairs(found, "de")) == expected
    assert found.captions["de"].first(1).texts == [f"de 1 of {name}." for name in FLICKR]
    with pytest.raises(CorpusError, match="Task 2 of Multi30k has no captions in 'fr'; it has en, de"):
        open_set("multi30k", root, "test_2016", ["fr"])


def test_broken_multi30k_is_reported(tmp_path: Path) -> None:
    root = multi30k(tmp_path)
    raw = root / "data" / "task1" / "raw"
    (root / "flickr30k-images" / FLICKR[1]).unlink()
    with pytest.raises(CorpusError, match=rf"1 of 3 images of Multi30k are missing from .*such as {FLICKR[1]}"):
        open_set("multi30k", root)
    write_images(root / "flickr30k-images", FLICKR)
    write(raw / "test_2016_flickr.fr.gz", "Un.\nDeux.\n")
    with pytest.raises(CorpusError, match=r"\.fr\.gz has 2 lines for 3 images; they are matched by order alone"):
        open_set("multi30k", root, langs=["fr"])
    (raw / "test_2016_flickr.fr.gz").write_bytes(gzip.compress("Un.\nDeux été.\nTrois.\n".encode("latin-1")))
    with pytest.raises(CorpusError, match=r"\.fr\.gz is not UTF-8: byte 9 is 0xe9"):
        open_set("multi30k", root, langs=["fr"])
    (raw / "test_2016_flickr.fr.gz").write_bytes(b"no gzip")
    with pytest.raises(CorpusError, match=r"\.fr\.gz cannot be read"):
        open_set("multi30k", root, langs=["fr"])
    (raw / "test_2016_flickr.fr.gz").unlink()
    with pytest.raises(CorpusError, match=r"does not contain raw/test_2016_flickr\.fr\.gz or raw/test_2016_flickr\.fr"):
        open_set("multi30k", root, langs=["fr"])
    ids = root / "data" / "task1" / "image_splits" / "test_2016_flickr.txt"
    ids.write_text("".join(f"{name}\n" for name in [*FLICKR[:2], FLICKR[0]]))
    with pytest.raises(CorpusError, match=rf"has '{FLICKR[0]}' 2 times among 3"):
        open_set("multi30k", root)
    ids.write_text("")
    write(raw / "test_2016_flickr.en.gz", "")
    with pytest.raises(CorpusError, match="Split 'test_2016_flickr' of Multi30k has no images"):
        open_set("multi30k", root)
    with pytest.raises(CorpusError, match="has no captions in 'zh'; it has en, de, fr, cs"):
        open_set("multi30k", root, langs=["zh"])


def test_an_empty_line_is_no_caption_and_moves_no_other(tmp_path: Path) -> None:
    root = multi30k(tmp_path)
    write(root / "data" / "task1" / "raw" / "test_2016_flickr.de.gz", "Eins.\n  \nDrei.\n")
    found = open_set("multi30k", root, langs=["de"])
    assert pairs(found, "de") == [(FLICKR[0], "Eins."), (FLICKR[2], "Drei.")]
    assert list(found.images) == FLICKR


# XTD10 and XTD200

COCO = [
    "COCO_train2014_000000061844.jpg",
    "COCO_train2014_000000061849.jpg",
    "COCO_val2014_000000171179.jpg",
    "COCO_train2014_000000061852.jpg",
]


def xtd10(root: Path) -> Path:
    write(root / "XTD10" / "test_image_names.txt", "".join(f"{name}\n" for name in COCO))
    for lang in XTD10_LANGS:
        folder = {"de": "MIC", "fr": "MIC", "jp": "STAIR"}.get(lang, "XTD10")
        # The authors' own seven end their lines as Windows does, and the last one not at all.
        text = "\r\n".join(f"{lang} of {name}" for name in COCO) + ("\n" if folder != "XTD10" else "")
        write(root / folder / f"test_1kcaptions_{lang}.txt", text)
    write_images(root / "images", COCO)
    return root


def test_xtd10_has_one_caption_per_image_in_every_language(tmp_path: Path) -> None:
    found = open_set("xtd10", xtd10(tmp_path), langs=XTD10_LANGS)
    assert list(found.captions) == list(INFO["xtd10"].langs)
    assert len(found.captions) == 11
    for lang in XTD10_LANGS:
        assert pairs(found, lang) == [(name, f"{lang} of {name}") for name in COCO]
    assert list(found.images) == COCO
    assert list(open_set("xtd10", tmp_path).captions) == ["en"]
    assert any("4 images; published results use 1,000" in note for note in found.notes)


def test_xtd10_finds_its_images_in_cocos_own_folders(tmp_path: Path) -> None:
    root = xtd10(tmp_path)
    (root / "train2014").mkdir()
    (root / "val2014").mkdir()
    for name in COCO:
        (root / "images" / name).rename(root / name.split("_")[1] / name)
    (root / "images").rmdir()
    assert open_set("xtd10", root).images.path(COCO[2]) == root / "val2014" / COCO[2]
    (root / "val2014" / COCO[2]).unlink()
    with pytest.raises(CorpusError, match=rf"1 of 4 images of XTD are missing from .*, such as val2014/{COCO[2]}"):
        open_set("xtd10", root)


def test_broken_xtd10_is_reported(tmp_path: Path) -> None:
    root = xtd10(tmp_path)
    write(root / "XTD10" / "test_1kcaptions_ko.txt", "one\ntwo\nthree\n")
    with pytest.raises(CorpusError, match=r"test_1kcaptions_ko\.txt has 3 lines for 4 images"):
        open_set("xtd10", root, langs=["ko"])
    (root / "XTD10" / "test_1kcaptions_ko.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(CorpusError, match="is not UTF-8: byte 0 is 0xe9"):
        open_set("xtd10", root, langs=["ko"])
    (root / "STAIR" / "test_1kcaptions_jp.txt").unlink()
    with pytest.raises(CorpusError, match=r"does not contain XTD10/test_1kcaptions_jp\.txt or MIC/"):
        open_set("xtd10", root, langs=["jp"])
    (root / "images" / COCO[0]).unlink()
    with pytest.raises(CorpusError, match=r"1 of 4 images of XTD are missing from .*images"):
        open_set("xtd10", root)
    write(root / "XTD10" / "test_image_names.txt", f"{COCO[0]}\n{COCO[0]}\n")
    with pytest.raises(CorpusError, match=rf"has '{COCO[0]}' 2 times among 2"):
        open_set("xtd10", root)


@pytest.mark.parametrize("below", ["", "data/xtd200"])
def test_xtd200_has_a_file_of_each_flores_language(tmp_path: Path, below: str) -> None:
    write(tmp_path / below / "test_image_names.txt", "".join(f"{name}\n" for name in COCO))
    for lang in ("eng_Latn", "deu_Latn", "zho_Hans"):
        write(tmp_path / below / f"{lang}.txt", "".join(f"{lang} of {name}\n" for name in COCO))
    write_images(tmp_path / "images", COCO)
    found = open_set("xtd200", tmp_path, langs=["zho_Hans", "deu_Latn"])
    assert list(found.captions) == ["zho_Hans", "deu_Latn"]
    assert pairs(found, "zho_Hans") == [(name, f"zho_Hans of {name}") for name in COCO]
    assert list(open_set("xtd200", tmp_path).captions) == ["eng_Latn"]
    with pytest.raises(CorpusError, match=r"in 3 languages but not in 'de_Latn'; it has deu_Latn.* and others"):
        open_set("xtd200", tmp_path, langs=["de_Latn"])
    write(tmp_path / below / "deu_Latn.txt", "Eins.\n")
    with pytest.raises(CorpusError, match="has 1 lines for 4 images"):
        open_set("xtd200", tmp_path, langs=["deu_Latn"])


# Crossmodal-3600

KEYS = ["000411001ff7dd4f", "000a0b0c0d0e0f00", "00ffee"]


def crossmodal_rows() -> list[dict[str, Any]]:
    """Rows as in the authors' file: captions, and the same tokenized."""
    return [
        {"image/key": key, "image/locale": lang}
        | {
            other: {
                "caption": [f"{other} {n} of {key} \u2028." for n in range(2 if other != "bn" else 1)],
                "caption/tokenized": [f"{other} 0 of {key} ."],
                "caption/tokenized/lowercase": [f"{other} 0 of {key} ."],
            }
            for other in CROSSMODAL_LANGS
        }
        for key, lang in zip(KEYS, ("quz", "en", "bn"), strict=True)
    ]


def crossmodal(root: Path, rows: list[dict[str, Any]]) -> Path:
    write(root / "captions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_images(root / "images", [f"{key}.jpg" for key in KEYS])
    return root


def test_crossmodal_reads_all_captions_of_36_languages(tmp_path: Path) -> None:
    found = open_set("crossmodal3600", crossmodal(tmp_path, crossmodal_rows()), langs=CROSSMODAL_LANGS)
    assert len(found.captions) == 36
    assert pairs(found, "zh") == [(key, f"zh {n} of {key} \u2028.") for key in KEYS for n in range(2)]
    assert found.captions["zh"].caption_ids[:2] == [f"{KEYS[0]}#0", f"{KEYS[0]}#1"]
    assert len(found.captions["bn"]) == 3
    assert list(found.images) == KEYS
    assert list(open_set("crossmodal3600", tmp_path).captions) == ["en"]
    assert any("CLIP_benchmark uses the first one" in note for note in found.notes)


def test_crossmodals_first_captions_are_those_of_clip_benchmark(tmp_path: Path) -> None:
    found = open_set("crossmodal3600", crossmodal(tmp_path, crossmodal_rows()), langs=["sw"])
    theirs = [row["sw"]["caption"][0] for row in crossmodal_rows()]
    assert found.captions["sw"].first(1).texts == theirs


def test_broken_crossmodal_is_reported(tmp_path: Path) -> None:
    root = crossmodal(tmp_path, crossmodal_rows())
    (root / "images" / f"{KEYS[2]}.jpg").unlink()
    with pytest.raises(CorpusError, match=rf"1 of 3 images of Crossmodal-3600 are missing from .*{KEYS[2]}\.jpg"):
        open_set("crossmodal3600", root)
    crossmodal(root, [*crossmodal_rows(), crossmodal_rows()[0]])
    with pytest.raises(CorpusError, match=rf"has '{KEYS[0]}' 2 times among 4"):
        open_set("crossmodal3600", root)
    for row, words in (
        ({"image/key": KEYS[0]}, "row 1, has no column 'en'"),
        ({"image_id": KEYS[0], "en": {}}, "row 1, has no column 'image/key'"),
        ({"image/key": KEYS[0], "en": ["A caption."]}, "row 1, has no list of captions in 'en'"),
        ({"image/key": KEYS[0], "en": {"captions": []}}, "row 1, has no list of captions in 'en'"),
    ):
        crossmodal(root, [row])
        with pytest.raises(CorpusError, match=words):
            open_set("crossmodal3600", root)
    (root / "captions.jsonl").write_bytes(b'{"image/key": "\xe9"}\n')
    with pytest.raises(CorpusError, match="cannot be read as captions: line 1 is not UTF-8"):
        open_set("crossmodal3600", root)
    (root / "captions.jsonl").write_text("")
    with pytest.raises(CorpusError, match="Split 'test' of Crossmodal-3600 has no images"):
        open_set("crossmodal3600", root)
