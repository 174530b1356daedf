"""Flickr30k, Flickr8k and their Chinese captions, in their authors' layouts."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.datasets.flickr import DATASETS
from llm2clip_search.errors import CorpusError
from tests.support.commands import RunCli
from tests.support.layouts import jpeg, write_images, write_tar

INFOS = {info.name: info for info in DATASETS}
TEST, VAL, TRAIN = ["1007129816.jpg", "36979.jpg"], ["65567.jpg"], ["1000092795.jpg"]
NAMES = [*TEST, *VAL, *TRAIN]
"""Images of a tiny Flickr, with two captions each; one caption contains the separators of other layouts."""
TEXTS = {
    name: [f"Caption one, of {name[:3]}", f"A dog | a cat #{number}, two\u2028lines"]
    for number, name in enumerate(NAMES)
}
SPLIT_OF = {**dict.fromkeys(TEST, "test"), **dict.fromkeys(VAL, "val"), **dict.fromkeys(TRAIN, "train")}


def opened(root: Path, name: str = "flickr30k", split: str = "", lang: str = "") -> RetrievalSet:
    return INFOS[name].open(root, split=split, langs=[lang] if lang else [])


def karpathy(root: Path, name: str = "flickr30k") -> Path:
    images = [
        {
            "filename": image,
            "split": SPLIT_OF[image],
            "imgid": number,
            "sentids": [2 * number, 2 * number + 1],
            "sentences": [
                {"raw": f" {text} ", "tokens": text.split(), "imgid": number, "sentid": 2 * number + at}
                for at, text in enumerate(TEXTS[image])
            ],
        }
        for number, image in enumerate(NAMES)
    ]
    path = root / f"dataset_{name}.json"
    path.write_text(json.dumps({"images": images, "dataset": name}))
    return path


def comma_list(root: Path, name: str = "flickr30k", split: str = "test") -> None:
    lines = [f"{image},{text}" for image in NAMES if SPLIT_OF[image] == split for text in TEXTS[image]]
    (root / f"{name}_{split}_karpathy.txt").write_text("\n".join(["image,caption", *lines, ""]))


def tokens(path: Path, *, between: str = "#", blank: str = "\t", suffix: str = ".jpg") -> None:
    lines = [
        f"{image.removesuffix('.jpg')}{suffix}{between}{at}{blank}{text}"
        for image in NAMES
        for at, text in enumerate(TEXTS[image])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def results_csv(root: Path) -> None:
    lines = [f"{image}| {at}| {text} " for image in NAMES for at, text in enumerate(TEXTS[image])]
    (root / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *lines, ""]))


def captions_txt(root: Path) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([["image", "caption"], *([image, text] for image in NAMES for text in TEXTS[image])])
    (root / "captions.txt").write_text(out.getvalue(), newline="")


def split_list(path: Path, names: list[str], *, suffix: str = ".jpg") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name.removesuffix('.jpg')}{suffix}\n" for name in names))


def shards(root: Path, split: str = "test") -> None:
    """Two shards as written by CLIP_benchmark's converter: unchanged image files under its own keys."""
    (root / "dataset_type.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset_type.txt").write_text("retrieval")
    for shard, image in enumerate(TEST):
        text = "\n".join(text.replace("\n", " ") for text in TEXTS[image])
        members = {f"s{shard:07d}.jpg": jpeg(shard), f"s{shard:07d}.txt": text.encode()}
        write_tar(root / split / f"{shard}.tar", members)
    (root / split / "nshards.txt").write_text("2")


def lay_token(root: Path) -> None:
    tokens(root / "results_20130124.token")
    split_list(root / "flickr30k_test.txt", TEST, suffix="")


def lay_results(root: Path) -> None:
    results_csv(root)
    split_list(root / "test.txt", TEST)


def lay_flickr8k_tokens(root: Path) -> None:
    tokens(root / "Flickr8k.token.txt")
    split_list(root / "Flickr_8k.testImages.txt", TEST)


def lay_flickr8k_captions(root: Path) -> None:
    captions_txt(root)
    split_list(root / "Flickr_8k.testImages.txt", TEST)


def lay_flickr8k_cn(root: Path) -> None:
    tokens(root / "data/flickr8kzhc.caption.txt", between="#zhc#", blank=" ")
    split_list(root / "data/flickr8ktest.txt", TEST, suffix="")


def lay_flickr30k_cn(root: Path) -> None:
    """One file per split, with image names without suffix."""
    path = root / "test/flickr30k_cn_test.txt"
    tokens(path, suffix="")
    lines = path.read_text().split("\n")
    path.write_text("\n".join(line for line in lines if f"{line.partition('#')[0]}.jpg" in TEST) + "\n")


LAYOUTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "Karpathy's Flickr30k": ("flickr30k", karpathy, "flickr30k-images"),
    "CLIP_benchmark's list": ("flickr30k", comma_list, "."),
    "the authors' tokens": ("flickr30k", lay_token, "flickr30k_images"),
    "Kaggle's results": ("flickr30k", lay_results, "Images"),
    "Karpathy's Flickr8k": ("flickr8k", lambda root: karpathy(root, "flickr8k"), "Flicker8k_Dataset"),
    "CLIP_benchmark's list of Flickr8k": ("flickr8k", lambda root: comma_list(root, "flickr8k"), "."),
    "Flickr8k's tokens": (
        "flickr8k",
        lay_flickr8k_tokens,
        "Flickr8k_Dataset",
    ),
    "Kaggle's captions": (
        "flickr8k",
        lay_flickr8k_captions,
        "Images",
    ),
    "Flickr30k-CNA": (
        "flickr30k-cn",
        lay_flickr30k_cn,
        "flickr30k-images",
    ),
    "Flickr8k-CN": (
        "flickr8k-cn",
        lay_flickr8k_cn,
        "Images",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_captions(tmp_path: Path, layout: str) -> None:
    name, lay, folder = LAYOUTS[layout]
    write_images(tmp_path / folder, NAMES)
    lay(tmp_path)
    found = opened(tmp_path, name)
    (lang,) = found.captions
    captions = found.captions[lang]
    assert (found.name, found.split, lang) == (name, "test", "zh" if name.endswith("cn") else "en")
    assert list(found.images) == TEST
    assert captions.image_ids == [image for image in TEST for _ in range(2)]
    assert captions.texts == [text for image in TEST for text in TEXTS[image]]
    assert len(set(captions.caption_ids)) == 4
    assert [found.images.read(image) for image in TEST] == [jpeg(0), jpeg(1)]
    assert found.notes[0].startswith("4 captions of 2 images, from ")
    assert found.notes[1] == "Published results use 1,000 images."


@pytest.mark.parametrize("name", ["flickr30k", "flickr8k"])
def test_the_shards_of_clip_benchmark_are_read(tmp_path: Path, name: str) -> None:
    shards(tmp_path)
    found = opened(tmp_path, name)
    assert list(found.images) == ["s0000000.jpg", "s0000001.jpg"]
    assert found.captions["en"].texts == [text for image in TEST for text in TEXTS[image]]
    assert found.captions["en"].rows_in(list(found.images)).tolist() == [0, 0, 1, 1]
    assert found.images.read("s0000001.jpg") == jpeg(1)


def test_splits_are_karpathys_and_the_authors_ids_are_kept(tmp_path: Path) -> None:
    karpathy(tmp_path)
    write_images(tmp_path / "images", NAMES)
    assert opened(tmp_path).captions["en"].caption_ids == ["0", "1", "2", "3"]
    assert list(opened(tmp_path, split="val").images) == VAL
    assert list(opened(tmp_path, split="train").images) == TRAIN
    assert list(opened(tmp_path, split="all").images) == NAMES


def test_karpathys_file_is_preferred(tmp_path: Path) -> None:
    karpathy(tmp_path)
    (tmp_path / "flickr30k_test_karpathy.txt").write_text("image,caption\nother.jpg,Another\n")
    write_images(tmp_path / "images", NAMES)
    assert opened(tmp_path).notes[0].endswith("from dataset_flickr30k.json.")


def test_dev_and_val_are_one_split_of_flickr8k(tmp_path: Path) -> None:
    karpathy(tmp_path, "flickr8k")
    write_images(tmp_path / "Images", NAMES)
    dev, val = (opened(tmp_path, "flickr8k", split) for split in ("dev", "val"))
    assert (list(dev.images), dev.split, dev.captions) == (VAL, "val", val.captions)
    (tmp_path / "dataset_flickr8k.json").unlink()
    tokens(tmp_path / "Flickr8k.token.txt")
    split_list(tmp_path / "Flickr_8k.devImages.txt", VAL)
    assert list(opened(tmp_path, "flickr8k", "dev").images) == VAL


def test_flickr8k_in_five_languages_is_its_dev_split(tmp_path: Path) -> None:
    write_tar(tmp_path / "flickr8k-dev-000.tar", {name: jpeg(seed) for seed, name in enumerate(NAMES)})
    rows = ["image_id,split,lang,caption,origin", f"{NAMES[0]},dev,en,One,a", f"{NAMES[0]},dev,de,Eins,a"]
    (tmp_path / "captions.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    found = INFOS["flickr8k"].open(tmp_path, split="val", langs=["de", "en"])
    assert (found.split, list(found.images)) == ("dev", NAMES)
    assert {lang: captions.texts for lang, captions in found.captions.items()} == {"de": ["Eins"], "en": ["One"]}
    assert opened(tmp_path, "flickr8k").split == "dev"


def test_a_file_without_splits_needs_a_list_or_gives_all(tmp_path: Path) -> None:
    results_csv(tmp_path)
    write_images(tmp_path / "flickr30k-images", NAMES)
    assert list(opened(tmp_path, split="all").images) == NAMES
    with pytest.raises(CorpusError, match=r"results\.csv does not say which .*flickr30k_test\.txt") as caught:
        opened(tmp_path)
    assert caught.value.hint.startswith("--split all reads all images.")


def test_the_row_without_its_second_bar_is_read(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(
        "image_name| comment_number| comment\n2199200615.jpg| 3| A dog .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n36979.jpg| 0| 3 men\n"
    )
    write_images(tmp_path / "images", ["2199200615.jpg", "36979.jpg"])
    assert opened(tmp_path, split="all").captions["en"].texts == ["A dog .", "A dog runs across the grass .", "3 men"]


def test_the_unreleased_image_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "Flickr8k.token.txt").write_text(
        "a.jpg#0\tOne\n2258277193_586949ec62.jpg.1#0\tTwo\n2258277193_586949ec62.jpg#1\tThree\n"
    )
    write_images(tmp_path / "Images", ["a.jpg"])
    assert opened(tmp_path, "flickr8k", "all").captions["en"].texts == ["One"]


def test_an_empty_caption_is_left_out_and_its_image_is_not(tmp_path: Path) -> None:
    (tmp_path / "results_20130124.token").write_text("a.jpg#0\tOne\nb.jpg#0\t \nb.jpg#1\n")
    write_images(tmp_path / "images", ["a.jpg", "b.jpg"])
    found = opened(tmp_path, split="all")
    assert (list(found.images), found.captions["en"].texts) == (["a.jpg", "b.jpg"], ["One"])
    assert "1 of these images have no caption" in " ".join(found.notes)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_any_caption_survives_each_layout(tmp_path: Path, texts: list[str]) -> None:
    write_images(tmp_path / "Images", ["a.jpg"])
    kept = [text.strip() for text in texts if text.strip()]
    out = io.StringIO()
    csv.writer(out).writerows([["image", "caption"], *(["a.jpg", text] for text in texts)])
    written = {
        ("flickr30k", "results_20130124.token"): "".join(f"a.jpg#{n}\t{text}\n" for n, text in enumerate(texts)),
        ("flickr8k", "captions.txt"): out.getvalue(),
    }
    for (name, file), content in written.items():
        (tmp_path / file).write_text(content, newline="")
        if kept:
            assert opened(tmp_path, name, "all").captions["en"].texts == kept
        else:
            with pytest.raises(CorpusError, match=r"has no (caption|image)"):
                opened(tmp_path, name, "all")


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing image": (lambda root: (root / "images" / TEST[1]).unlink(), r"1 of 2 images of Flickr30k .* 36979\.jpg"),
    "no images": (lambda root: (root / "images").rename(root / "elsewhere"), "folder of images is missing"),
    "a file of another version": (
        lambda root: (root / "dataset_flickr30k.json").write_text('{"annotations": []}'),
        "has no list 'images': it is another file or of another version",
    ),
    "an entry of another version": (
        lambda root: change(root / "dataset_flickr30k.json", lambda data: data["images"][1].pop("sentences")),
        "image 2, has no 'sentences': the file is of another version",
    ),
    "an entry of another kind": (
        lambda root: change(root / "dataset_flickr30k.json", lambda data: data["images"].insert(0, "a.jpg")),
        "image 1, has an unexpected form",
    ),
    "an image twice": (
        lambda root: change(root / "dataset_flickr30k.json", lambda data: data["images"].append(data["images"][0])),
        "has image '1007129816.jpg' twice",
    ),
    "a caption id twice": (
        lambda root: change(
            root / "dataset_flickr30k.json", lambda data: data["images"][1]["sentences"][0].update(sentid=0)
        ),
        "2 captions with id '0'",
    ),
    "another encoding": (
        lambda root: (root / "dataset_flickr30k.json").write_bytes('{"images": "café"}'.encode("latin-1")),
        "is not UTF-8: byte 15 is 0xe9",
    ),
    "no JSON": (lambda root: (root / "dataset_flickr30k.json").write_text("{"), "is not JSON"),
    "an empty split": (
        lambda root: change(root / "dataset_flickr30k.json", lambda data: data.update(images=data["images"][2:])),
        "has no images in split 'test'",
    ),
    "captions that are all empty": (
        lambda root: change(
            root / "dataset_flickr30k.json",
            lambda data: [sentence.update(raw=" ") for image in data["images"] for sentence in image["sentences"]],
        ),
        "has no captions in 'en'",
    ),
    "no caption file": (
        lambda root: (root / "dataset_flickr30k.json").unlink(),
        r"contains none of dataset_flickr30k\.json, flickr30k_test_karpathy\.txt, results_20130124\.token, "
        r"results\.csv, test/nshards\.txt\.$",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_set_says_in_one_sentence_what_is_wrong(tmp_path: Path, fault: str) -> None:
    karpathy(tmp_path)
    write_images(tmp_path / "images", NAMES)
    damage, message = BROKEN[fault]
    damage(tmp_path)
    with pytest.raises(CorpusError, match=message) as caught:
        opened(tmp_path)
    if fault == "no caption file":
        assert "Get Flickr30k's images by" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("flickr30k", "flickr30k_test_karpathy.txt", b"h\na.png,One\n", r"line 2, is not 'IMAGE\.jpg,caption'"),
        ("flickr30k", "results_20130124.token", b"a.jpg#0\tOne\na.jpg Two\n", "line 2, is not 'IMAGE#n caption'"),
        ("flickr30k", "results_20130124.token", b"a.jpg#0\t\xe9\n", "is not UTF-8: byte 8 is 0xe9"),
        ("flickr30k", "results_20130124.token", b"a.jpg#0\tOne\na.jpg#0\tTwo\n", "2 captions with id 'a.jpg#0'"),
        ("flickr30k", "results.csv", b"h\na.jpg, 0, One\n", r"line 2, is not 'IMAGE\.jpg\| n\| caption'"),
        ("flickr8k", "captions.txt", b"a.jpg,One\n", "does not begin with 'image,caption'"),
        ("flickr8k", "captions.txt", b"", "does not begin with 'image,caption'"),
        ("flickr8k", "captions.txt", b"image,caption\na.jpg,One,two\n", "row 2, has 3 columns instead of 2"),
        ("flickr8k", "captions.txt", b'image,caption\na.jpg,"One\n', "cannot be read as CSV"),
        ("flickr8k-cn", "flickr8kzhc.caption.txt", "a.jpg#zhc#一\n".encode(), "line 1, is not 'IMAGE#n caption'"),
    ],
)  # fmt: skip
def test_a_line_of_another_form_is_named(tmp_path: Path, name: str, file: str, content: bytes, message: str) -> None:
    write_images(tmp_path / "images", ["a.jpg"])
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        opened(tmp_path, name, "test" if "karpathy" in file else "all")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "dataset_type.txt").write_text("classification"), "says 'classification'"),
        (lambda root: (root / "test/nshards.txt").write_text("two"), "says 'two', which is not a number of shards"),
        (
            lambda root: (root / "test/nshards.txt").write_text("3"),
            r"1 of 3 shards are missing from .*, such as 2\.tar",
        ),
        (lambda root: write_tar(root / "test/1.tar", {"k.txt": b"One"}), "captions but no image for 'k'"),
        (
            lambda root: write_tar(root / "test/1.tar", {"k.jpg": jpeg(1), "k.txt": b"caf\xe9"}),
            r"k\.txt in .*1\.tar is not UTF-8: byte 3 is invalid",
        ),
        (lambda root: (root / "test/1.tar").write_bytes(b"x" * 600), "cannot be read as an uncompressed tar shard"),
        (
            lambda root: write_tar(root / "test/1.tar", {"s0000000.jpg": jpeg(1)}),
            r"'s0000000\.jpg' is in .*0\.tar and again in .*1\.tar",
        ),
    ],
)
def test_broken_shards_are_named(tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    shards(tmp_path)
    damage(tmp_path)
    with pytest.raises(CorpusError, match=message):
        opened(tmp_path)


def test_splits_and_languages_that_a_copy_lacks_are_named(tmp_path: Path) -> None:
    karpathy(tmp_path, "flickr8k")
    write_images(tmp_path / "Images", NAMES)
    with pytest.raises(CorpusError, match="no split 'tset'; it has test, val, train, all"):
        opened(tmp_path, "flickr8k", "tset")
    with pytest.raises(CorpusError, match="This copy of Flickr8k has no captions in 'de'; it has en"):
        opened(tmp_path, "flickr8k", "test", "de")


def test_an_image_twice_in_a_list_is_reported(tmp_path: Path) -> None:
    tokens(tmp_path / "Flickr8k.token.txt")
    split_list(tmp_path / "Flickr_8k.testImages.txt", [TEST[0], TEST[0]])
    write_images(tmp_path / "Images", NAMES)
    with pytest.raises(CorpusError, match=r"testImages\.txt has '1007129816\.jpg' 2 times among 2"):
        opened(tmp_path, "flickr8k")


def test_the_command_says_what_to_download(tmp_path: Path, run_cli: RunCli) -> None:
    failed = run_cli("bench", "captions", "flickr30k", "--root", tmp_path, "--json")
    assert (failed.returncode, failed.stdout) == (1, "")
    told = " ".join(failed.stderr.split())
    assert "contains none of dataset_flickr30k.json, flickr30k_test_karpathy.txt" in told
    assert "kaggle.com/datasets/hsankesara/flickr-image-dataset" in told
    assert "Traceback" not in told
