"""What both stages say of data that is bad, broken or doubled, and what they leave out."""

import csv
import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm2clip_search.errors import CorpusError, ModelError
from llm2clip_search.training import Recipe
from llm2clip_search.training.data.caption_table import content_digest
from llm2clip_search.training.data.training_captions import read_stage2_captions
from llm2clip_search.training.tasks.clip_data import read_clip_data
from llm2clip_search.training.tasks.llm_folder import read_llm
from tests.support.corpus import caption_table, jpeg, write_csv, write_tar
from tests.support.tiny_stages import Stage, run
from tests.support.tiny_training import write_flickr8k

SPLITS = ("train", "dev")


def cut_off(root: Path) -> None:
    shard = root / "flickr8k" / "flickr8k-train-000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])


def no_caption_column(root: Path) -> None:
    write_csv(root / "flickr8k" / "captions.csv.gz", [{"image_id": "a.jpg", "split": "train", "text": "a"}])


def other_images(root: Path) -> None:
    write_tar(root / "flickr8k" / "flickr8k-train-000.tar", {f"other-{n}.jpg": jpeg(n) for n in range(6)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, r"flickr8k-train-000\.tar"),
        (no_caption_column, "has no column 'caption'"),
        (other_images, "None of the 6 captioned images"),
    ],
)
def test_bad_data_is_reported_in_a_sentence(
    damage: Any, message: str, recipe: Recipe, made: Path, tmp_path: Path
) -> None:
    write_flickr8k(tmp_path)
    damage(tmp_path)
    with pytest.raises(CorpusError, match=message):
        run("clip", recipe, tmp_path, made, tmp_path / "model")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_batch_of_one_is_refused(stage: str, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="batch_size is 1, but it has to be at least 2"):
        replace(getattr(recipe, stage), batch_size=1)


def test_empty_and_repeated_captions_are_counted_and_listed(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_flickr8k(tmp_path)
    texts = ("a", "b", "", "b")
    extra = [{"image_id": f"other-{n}.jpg", "lang": "en", "caption": text} for n in range(3) for text in texts]
    write_csv(tmp_path / "multi30k" / "captions.csv.gz", extra)
    counts: dict[str, float] = {}
    said: list[str] = []

    def report(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        said.append(what)
        if what == "data":
            counts.update(figures)

    run("captions", recipe, tmp_path, tmp_path, tmp_path / "llm", progress=report)
    assert {"captions for the statistics", "captions for the evaluation"} < set(said)
    assert (counts["empty"], counts["repeated"]) == (3, 3)
    table = tmp_path / "multi30k" / "captions.csv.gz"
    listed = [json.loads(line) for line in (tmp_path / "llm" / "left_out.jsonl").read_text().splitlines()]
    assert {"reason": "empty captions", "name": f"{table}, row 3", "detail": ""} in listed
    assert {"reason": "repeated captions, which are kept", "name": f"{table}, row 4", "detail": "b"} in listed
    assert f"empty captions: 3, such as {table}, row 3" in caplog.messages
    assert f"repeated captions, which are kept: 3, such as {table}, row 4" in caplog.messages


@pytest.mark.parametrize("stage", ["captions", "clip"])
def test_corrected_captions_are_other_data(stage: Stage, recipe: Recipe, made: Path, tmp_path: Path) -> None:
    """Even if the captions as such are the same as before."""
    write_flickr8k(tmp_path)
    table = tmp_path / "flickr8k" / "captions.csv.gz"
    with gzip.open(table, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    loop: dict[str, Any] = {"steps": 1, "warmup_steps": 0, "evaluate_every": 1}
    short = replace(
        recipe,
        stage1=replace(recipe.stage1, loop=replace(recipe.stage1.loop, **loop)),
        stage2=replace(recipe.stage2, loop=replace(recipe.stage2.loop, **loop)),
    )
    run(stage, short, tmp_path, made, tmp_path / "out")
    ids = {split: [n for n, row in enumerate(rows) if (row["split"], row["lang"]) == (split, "en")] for split in SPLITS}
    for split in SPLITS:
        changed = [dict(row) for row in rows]
        first, last = changed[ids[split][0]], changed[ids[split][-1]]
        first["caption"], last["caption"] = last["caption"], first["caption"]
        write_csv(table, changed)
        with pytest.raises(ModelError, match="holds the result of another recipe or of other data"):
            run(stage, short, tmp_path, made, tmp_path / "out")


@pytest.mark.parametrize("stage", ["captions", "clip"])
def test_other_weights_of_sources_are_other_data(
    stage: Stage, recipe: Recipe, made: Path, root: Path, tmp_path: Path
) -> None:
    """They decide which captions and images a step draws; equal ones draw the same, whatever they are."""

    def weighted(*weights: float) -> dict[str, float]:
        sources = [replace(source, weight=weight) for source, weight in zip(recipe.data.captions, weights, strict=True)]
        captioned = [
            replace(recipe.data.image_captions[0], split=split, langs=("en",), weight=weight)
            for split, weight in zip(SPLITS, weights, strict=True)
        ]
        shards = tuple(f"flickr8k/flickr8k-{split}-*.tar" for split in SPLITS)
        loop: dict[str, Any] = {"steps": 1, "warmup_steps": 0, "evaluate_every": 1}
        short = replace(
            recipe,
            data=replace(
                recipe.data,
                captions=tuple(sources),
                images=shards,
                image_captions=tuple(captioned),
                long=None,
                dev=(),
            ),
            stage1=replace(recipe.stage1, loop=replace(recipe.stage1.loop, **loop)),
            stage2=replace(recipe.stage2, loop=replace(recipe.stage2.loop, **loop)),
        )
        return run(stage, short, root, made, tmp_path / "out")

    weighted(2.0, 2.0)
    weighted(1.0, 1.0)
    with pytest.raises(ModelError, match="holds the result of another recipe or of other data"):
        weighted(1.0, 2.0)


def test_the_digest_of_captions_depends_on_all_but_their_order() -> None:
    rows = [("a", "x"), ("a", "y"), ("b", "z"), (None, "z")]
    table = caption_table(rows)
    digest = content_digest(table)
    assert content_digest(table.take([3, 1, 0, 2])) == digest
    assert content_digest(pa.concat_tables([table[:1], table[1:]])) == digest
    changes: dict[str, list[object]] = {
        "caption_id": [1, 2, 3, 4],
        "image_id": ["b", "a", "a", None],
        "photo": ["a", "a", "c", "d"],
        "lang": ["en", "en", "de", "en"],
        "length": ["short", "long", "short", "short"],
        "source": [0, 0, 0, 1],
        "negative": [False, False, True, False],
    }
    changed = [content_digest(caption_table(rows, **{name: values})) for name, values in changes.items()]
    assert len({digest, *changed}) == 1 + len(changes)


def test_dev_is_always_held_out(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    """Even if a data recipe includes its dev split in training and holds out nothing."""
    assert recipe.data.dev is not None
    greedy = replace(recipe.data, image_captions=(replace(recipe.data.image_captions[0], split=""),), held_out=())
    captions, counts = read_stage2_captions(greedy, root)
    assert not [name for name in captions["image_id"].to_pylist() if name.startswith("dev")]
    assert counts["held out"] > 0


def test_broken_images_are_left_out_and_listed(recipe: Recipe, made: Path, tmp_path: Path) -> None:
    """One of the training images and one of dev; the dev image goes with its captions."""
    write_flickr8k(tmp_path)
    for split, first, kept in (("train", 0, 300), ("dev", 100, 310)):  # equal headers would be held out by content
        images = {f"{split}-{number}.jpg": jpeg(first + number) for number in range(6)}
        images[f"{split}-4.jpg"] = images[f"{split}-4.jpg"][:kept]
        write_tar(tmp_path / "flickr8k" / f"flickr8k-{split}-000.tar", images)
    clip = replace(recipe.stage2, loop=replace(recipe.stage2.loop, steps=1, warmup_steps=0))
    said: dict[str, Mapping[str, float]] = {}

    def progress(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        said[what] = figures

    run("clip", replace(recipe, stage2=clip), tmp_path, made, tmp_path / "model", progress=progress)
    assert {"images for the statistics", "images for the evaluation"} < said.keys()
    assert {name: said["data"][name] for name in ("images", "broken images", "broken dev images")} == {
        "images": 5,
        "broken images": 1,
        "broken dev images": 1,
    }
    listed = [json.loads(line) for line in (tmp_path / "model" / "left_out.jsonl").read_text().splitlines()]
    assert {(row["reason"], row["name"]) for row in listed} == {
        ("broken images", "train-4.jpg"),
        ("broken dev images", "flickr8k: dev-4.jpg"),
    }
    assert all(row["detail"] for row in listed)
    ranks = json.loads((tmp_path / "model" / "ranks.json").read_text())["flickr8k/en"]
    assert (len(ranks["text_retrieval"]), len(ranks["image_retrieval"])) == (5, 25)


def test_an_image_in_two_sources_is_trained_on_once(recipe: Recipe, made: Path, tmp_path: Path) -> None:
    """It counts as one, and the list has the other."""
    write_flickr8k(tmp_path)
    write_tar(tmp_path / "more.tar", {"again.jpg": jpeg(0)})
    write_csv(tmp_path / "more.csv", [{"image_id": "again.jpg", "lang": "en", "caption": "train-0 in en, caption 0"}])
    source = replace(recipe.data.image_captions[0], path="more.csv", split="", langs=())
    data = replace(
        recipe.data,
        images=(*recipe.data.images, "more.tar"),
        image_captions=(*recipe.data.image_captions, source),
    )
    read, counts = read_clip_data(
        data, root=tmp_path, llm=read_llm(made / "llm"), store=made / "store", clip=None, max_missing=0.0
    )
    assert "again.jpg" not in read.captioned.image_ids
    assert (counts["images"], counts["copies of another image"]) == (6, 1)
    assert ("copies of another image", "again.jpg", "") in read.left_out


def test_stage_1_names_the_photographs_that_it_drops(recipe: Recipe, tmp_path: Path) -> None:
    write_flickr8k(tmp_path)
    rows = [
        {"image_id": "one.jpg", "split": "train", "lang": lang, "caption": "a lonely thing"} for lang in ("en", "de")
    ]
    rows += [
        {"image_id": f"{n}.jpg", "split": "train", "lang": "en", "caption": f"{n} {k}"} for n in "ab" for k in "xy"
    ]
    write_csv(tmp_path / "flickr8k" / "more.csv", rows)
    source = replace(recipe.data.captions[0], path="flickr8k/more.csv")
    data = replace(recipe.data, captions=(*recipe.data.captions, source), dev=())
    stage1 = replace(recipe.stage1, loop=replace(recipe.stage1.loop, steps=1, warmup_steps=0))
    run("captions", replace(recipe, stage1=stage1, data=data), tmp_path, tmp_path, tmp_path / "llm")
    listed = [json.loads(line) for line in (tmp_path / "llm" / "left_out.jsonl").read_text().splitlines()]
    assert listed == [{"reason": "photographs without two captions", "name": "one.jpg", "detail": ""}]
    assert json.loads((tmp_path / "llm" / "run.json").read_text())["counts"]["photographs without two captions"] == 1


def test_images_of_two_dev_splits_may_have_the_same_names(recipe: Recipe, made: Path, tmp_path: Path) -> None:
    """A split of other images, under the names of the first one's, has recalls of its own images."""
    write_flickr8k(tmp_path)
    dev = recipe.data.dev[0]
    names = [f"dev-{number}.jpg" for number in range(6)]
    write_tar(tmp_path / "other.tar", {name: jpeg(500 + number) for number, name in enumerate(names)})
    other = replace(dev, name="other", images=("other.tar",))
    figures: dict[int, dict[str, float]] = {}
    for splits in ((dev, other), (other,)):
        data = replace(recipe.data, dev=splits)
        out = tmp_path / str(len(splits))
        figures |= {len(splits): run("clip", replace(recipe, data=data), tmp_path, made, out)}
    own = [{name: value for name, value in each.items() if name.startswith("other/")} for each in figures.values()]
    assert own[0] == pytest.approx(own[1])
    assert own[0] != {
        name.replace("flickr8k/", "other/"): value for name, value in figures[2].items() if "flickr8k/" in name
    }
