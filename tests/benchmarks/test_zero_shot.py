"""Zero-shot classification compared with CLIP_benchmark's definition, and labelled folders."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llm2clip_search.benchmarks.labelled_folder import read_class_names, read_labelled_folder
from llm2clip_search.benchmarks.zero_shot import (
    TEMPLATES,
    class_vectors,
    classification_metrics,
    classify,
    read_templates,
)
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

COLOURS = {"deep_red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def unit(rows: np.ndarray) -> np.ndarray:
    vectors: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def clip_benchmark(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``accuracy`` of CLIP_benchmark 1.6.2, which uses torch's topk, and scikit-learn's ``balanced_accuracy_score``."""
    scores, target = torch.from_numpy(logits), torch.from_numpy(labels)
    few = scores.shape[1] < 5
    correct = scores.topk(1 if few else 5, 1, True, True)[1].t().eq(target.view(1, -1))
    confusion = np.zeros((logits.shape[1], logits.shape[1]))
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    with np.errstate(invalid="ignore"):
        per_class = np.diag(confusion) / confusion.sum(axis=1)
    return {
        "acc1": float(correct[:1].reshape(-1).float().sum()) / len(labels),
        "acc5": None if few else float(correct[:5].reshape(-1).float().sum()) / len(labels),
        "mean_per_class_recall": float(np.nanmean(per_class)),
    }


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(2, 12))
def test_metrics_are_clip_benchmarks(seed: int, images: int, classes: int) -> None:
    """Classes of any size, some without images."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    vectors, prompts = unit(generator.normal(size=(images, 8))), unit(generator.normal(size=(classes, 8)))
    measured = classification_metrics(vectors, prompts, labels)
    expected = clip_benchmark(vectors @ prompts.T, labels)
    assert measured["acc1"] == expected["acc1"]
    assert measured["acc5"] == expected["acc5"]
    assert measured["mean_per_class_recall"] == pytest.approx(expected["mean_per_class_recall"], abs=1e-12)


def test_a_small_class_weighs_as_much_in_the_mean_as_a_large_one() -> None:
    eye = np.eye(2, dtype=np.float32)
    measured = classification_metrics(eye[[0, 0, 0, 0]], eye, np.array([0, 0, 0, 1]))
    assert measured == {"acc1": 0.75, "acc5": None, "mean_per_class_recall": 0.5}


def test_a_class_is_the_normalised_mean_of_its_unit_prompts(colours: ColourEncoder) -> None:
    templates = ("a photo of a {}.", "art of the {}.", "a {} in a video game.")
    vectors = class_vectors(colours, ["cat", "sea lion"], templates)
    for name, vector in zip(["cat", "sea lion"], vectors, strict=True):
        mean = np.mean([colours.encode_texts([template.replace("{}", name)])[0] for template in templates], axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


class ByName(ColourEncoder):
    """Maps the name of a class to its colour, so the expected predictions are known."""

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        rows = []
        for text in texts:
            (colour,) = [colour for name, colour in COLOURS.items() if name.replace("_", " ") in text]
            rows.append(np.tile(np.array(colour, dtype=np.float32), 6)[: self.dim] - 127.5)
        return unit(np.array(rows))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three classes of single-coloured images; one image of ``blue`` is red, one of ``green`` is in a subfolder."""
    root = tmp_path / "colours"
    for number, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for copy in range(2 + number):
            Image.new("RGB", (40, 40), colour).save(root / name / f"{copy}.png")
    Image.new("RGB", (40, 40), COLOURS["deep_red"]).save(root / "blue" / "0.png")
    (root / "green" / "2024").mkdir()
    (root / "green" / "2.png").rename(root / "green" / "2024" / "2.png")
    return root


def test_a_folder_is_measured_and_damaged_images_are_counted(labelled: Path) -> None:
    (labelled / "green" / "broken.jpg").write_bytes(b"no image")
    (labelled / "green" / "empty.png").touch()
    photograph(1).save(labelled / "loose.png")
    (labelled / "no class").mkdir()
    seen: list[tuple[str, int, int]] = []
    result = classify(
        ByName(),
        read_labelled_folder(labelled),
        TEMPLATES["seven"],
        batch_size=2,
        progress=lambda *state: seen.append(state[:3]),
    )
    assert result.metrics == {"acc1": 8 / 9, "acc5": None, "mean_per_class_recall": (1 + 1 + 3 / 4) / 3}
    assert result.recalls == {"blue": 0.75, "deep_red": 1.0, "green": 1.0}
    assert (result.images, result.classes) == (9, 3)
    assert [(Path(one.path).name, one.stage) for one in result.failures] == [
        ("broken.jpg", "header"),
        ("empty.png", "header"),
    ]
    assert result.notes == ("1 images are in colours itself, so they have no class and are left out",)
    assert seen[-1] == ("images", 11, 11)
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["task"] == "zeroshot_classification"
    assert list(written)[:6] == ["dataset", "model", "pretrained", "task", "language", "metrics"]
    assert (written["dataset"], written["metrics"]["acc5"]) == ("colours", None)


def test_the_size_of_a_batch_changes_nothing(labelled: Path) -> None:
    folder = read_labelled_folder(labelled)
    encoder = ColourEncoder()
    results = [classify(encoder, folder, ("a {}",), batch_size=size) for size in (1, 4, 9, 100)]
    assert all(result == results[0] for result in results)


def test_nothing_that_decodes_is_an_error(tmp_path: Path, colours: ColourEncoder) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no image")
    with pytest.raises(CorpusError, match="None of 2 images in"):
        classify(colours, read_labelled_folder(tmp_path), ("a {}",))


def test_labels_are_the_first_folder_of_a_path(labelled: Path) -> None:
    folder = read_labelled_folder(labelled)
    assert folder.folders == ("blue", "deep_red", "green")
    assert folder.names == ("blue", "deep red", "green")
    for file, label in zip(folder.files, folder.labels, strict=True):
        assert Path(file.uri).relative_to(labelled).parts[0] == folder.folders[label]
    assert np.bincount(folder.labels).tolist() == [4, 2, 3]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.csv", 'blue,the sky\ndeep_red,wine\n\ngreen,"grass, fresh"\nunused,x\n'),
        ("names.csv", '\ufeffblue, the sky\r\ndeep_red,wine\r\ngreen,"grass, fresh"\r\nunused,x'),
        ("names.json", '{"blue": "the sky", "deep_red": "wine", "green": "grass, fresh", "unused": "x"}'),
    ],
)
def test_classes_can_be_called_otherwise(labelled: Path, tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, "utf-8")
    folder = read_labelled_folder(labelled, file)
    assert folder.names == ("the sky", "wine", "grass, fresh")
    assert folder.notes == (f"{name} names 1 classes without images; they are not used",)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.csv", b"blue,sky\n", "names 1 classes, but 2 of the 3 subfolders"),
        ("a.csv", b"blue,sky\nblue,sea\n", "names the class 'blue' twice, 'sky' and 'sea'"),
        ("a.json", b'{"blue": "sky", "blue": "sea"}', "names the class 'blue' twice, 'sky' and 'sea'"),
        ("a.csv", b"blue\n", "entry 1, is not a subfolder and its name: blue"),
        ("a.csv", b"blue,sky,sea\n", "entry 1, is not a subfolder and its name: blue, sky, sea"),
        ("a.csv", b"blue,\n", "entry 1, is not a subfolder"),
        ("a.json", b'{"blue": 3}', "entry 1, is not a subfolder and its name: blue, 3"),
        ("a.json", b'["blue"]', "is not a JSON object"),
        ("a.json", b'{"blue": ', "cannot be read as class names"),
        ("a.csv", b"bl\xff,sky\n", "cannot be read as class names"),
        ("missing.csv", None, "cannot be read as class names"),
    ],
)
def test_broken_names_are_one_sentence(
    labelled: Path, tmp_path: Path, name: str, data: bytes | None, reason: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=reason):
        read_labelled_folder(labelled, tmp_path / name)


def test_a_two_letter_name_is_not_a_pair(tmp_path: Path) -> None:
    """A string is a sequence too."""
    (tmp_path / "a.json").write_text('{"ab": "cd"}')
    assert read_class_names(tmp_path / "a.json") == {"ab": "cd"}


def test_two_classes_of_one_name_are_reported(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("blue,crane\ngreen,crane\ndeep_red,x\n")
    (note,) = read_labelled_folder(labelled, tmp_path / "n.csv").notes
    assert note == "two classes are both called 'crane', so prompts cannot tell them apart"


def _one_class(root: Path) -> None:
    (root / "a").mkdir()
    photograph(0).save(root / "a" / "0.png")


@pytest.mark.parametrize(("make", "count"), [(lambda root: None, 0), (_one_class, 1)])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, make: Callable[[Path], None], count: int) -> None:
    make(tmp_path)
    with pytest.raises(CorpusError, match=f"has {count} subfolders with images, but classification needs at least 2"):
        read_labelled_folder(tmp_path)


def test_templates_by_name_and_from_a_file(tmp_path: Path) -> None:
    assert read_templates("plain") == ("a photo of a {}.",)
    assert len(read_templates("seven")) == 7
    file = tmp_path / "templates.txt"
    file.write_text("ein Foto von {}.\n\n  {} und {}  \n", "utf-8")
    assert read_templates(str(file)) == ("ein Foto von {}.", "{} und {}")
    assert all("{}" in template for templates in TEMPLATES.values() for template in templates)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a {}\nno place\n", "line 2, has no {} for the name of the class: 'no place'"),
        (b"\n \n", "contains no templates"),
        (b"\xff\xfe", "is not one of plain, seven and cannot be read"),
        (None, "is not one of plain, seven and cannot be read"),
    ],
)
def test_broken_templates_are_one_sentence(tmp_path: Path, data: bytes | None, reason: str) -> None:
    file = tmp_path / "templates.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(CorpusError, match=reason):
        read_templates(str(file))
