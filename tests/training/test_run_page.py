"""The page of a run, from vectors that are known and captions that nobody should trust."""

from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.training.run_page import RunFacts, RunPage
from llm2clip_search.training.tasks.clip_data import Dev, DevVectors
from tests.support.html_reader import Reader, assert_self_contained
from tests.support.images import photograph

HOSTILE = "<script>alert(1)</script> & \"$split\" '${heading}' </span>"


@pytest.fixture
def dev(tmp_path: Path) -> Dev:
    """Four images: one has two captions, one has none, one is damaged."""
    folder = tmp_path / "<b>images"
    folder.mkdir()
    for number in range(4):
        photograph(number, (64, 40)).save(folder / f"{number}.png")
    damaged = folder / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    image_of = np.array([0, 1, 2, 0])
    return Dev(
        name="<i>val",
        files=ImageFiles.scan(tmp_path, [folder.name]),
        image_ids=[f"{number}.png" for number in range(4)],
        captions={"x-<b>": (np.zeros((4, 2), dtype=np.float32), image_of)},
        texts={"x-<b>": [HOSTILE, "كلب أسود", "b", "c"]},
    )


def vectors(dev: Dev, nearest: list[int]) -> DevVectors:
    """Vectors with which each caption is that of the image with this number."""
    eye = np.eye(4, dtype=np.float32)
    ((lang, (_, image_of)),) = dev.captions.items()
    return DevVectors(dev=dev, lang=lang, images=eye, captions=eye[nearest], image_of=image_of)


def page(tmp_path: Path, now: DevVectors | None, before: DevVectors | None, log: str = "") -> str:
    (tmp_path / "metrics.jsonl").write_text(log)
    facts = RunFacts(name="<u>my model", steps=20, start="dir:<s>", counts={"images": 1200, "broken images": 0})
    RunPage(tmp_path / "run.html", tmp_path, facts, before).write(now, 8)
    return (tmp_path / "run.html").read_text(encoding="utf-8")


def test_untrusted_text_is_escaped_and_nothing_is_loaded(tmp_path: Path, dev: Dev) -> None:
    html = page(tmp_path, vectors(dev, [1, 2, 3, 2]), vectors(dev, [0, 1, 2, 0]))
    read = Reader(html)
    assert_self_contained(html)
    assert {tag for tag, _ in read.elements}.isdisjoint({"b", "i", "u", "s"})
    assert HOSTILE in read.text
    assert "After step 8 of 20. Training began from dir:<s>. Data: 1,200 images." in read.text
    assert set(read.attributes("span", "dir")) == {"auto"}


def test_the_captions_whose_rank_changed_most_are_shown(tmp_path: Path, dev: Dev) -> None:
    """Image 1 had its caption at rank 1 and has it at rank 2 or later now; image 3 has no caption to rank."""
    html = page(tmp_path, vectors(dev, [0, 2, 1, 0]), vectors(dev, [0, 1, 2, 0]))
    shown = html[html.index('id="nearest"') : html.index('id="matrix"')]
    read = Reader(shown.partition(">")[2].rpartition("<section")[0].rpartition("</section>")[0])
    assert read.attributes("img", "alt") == ["1.png", "0.png"], "the damaged image 2 has no thumbnail"
    assert "2.png: " in read.text
    assert read.text.count("before: own caption at rank 1") == 3
    assert read.text.count("now: own caption at rank 1") == 1
    assert [line for line in html.split("<li") if line.startswith(" class=right")]


def test_the_matrix_has_own_pairs_on_its_diagonal(tmp_path: Path, dev: Dev) -> None:
    html = page(tmp_path, vectors(dev, [0, 1, 2, 3]), None)
    assert html.count("<td class=own") == 3
    assert html.count('<td class=own style="--shade: 100%">100</td>') == 3
    assert "Before training" not in html


def test_recalls_are_those_of_the_log(tmp_path: Path, dev: Dev) -> None:
    names = [f"{task}_recall@{k}" for task in ("image_retrieval", "text_retrieval") for k in (1, 5, 10)]
    lines = []
    for step, recall in ((0, 0.25), (4, 0.5), (8, 0.375)):
        values = ", ".join(f'"dev/val/en/{name}": {recall}' for name in names)
        lines.append(f'{{"step": {step}, "dev/mean_recall": {recall}, {values}}}\n')
    html = page(tmp_path, vectors(dev, [0, 1, 2, 3]), None, "".join(lines))
    assert "val, en</th><td class=when>before training</td><td>25.0</td>" in html
    assert "val, en</th><td class=when>step 4, the best so far</td><td>50.0</td>" in html
    assert "37.5" not in html
    assert "There are no curves yet" in html, "no step has a loss"


def test_a_run_without_a_dev_split_has_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    html = page(tmp_path, None, None, '{"step": 1, "loss": 2.0, "learning_rate": 0.1}\n')
    assert_self_contained(html)
    assert 'src="data:image/png;base64,' in html
