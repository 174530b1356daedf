"""The main job on real data: Flickr8k's dev images in a folder, every English caption asked."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search import Encoder, SearchIndex, index_folder, load_encoder, open_index
from llm2clip_search.benchmarks.datasets.base import Captions
from llm2clip_search.benchmarks.datasets.captioned_shards import (
    read_captioned_shards,
    read_shard_captions,
    read_shard_images,
)
from llm2clip_search.benchmarks.embedding import embed_images
from llm2clip_search.benchmarks.retrieval import measure_retrieval
from tests.support.commands import RunCli
from tests.support.images import photograph

ROOT = Path(os.environ.get("LLM2CLIP_DATA", Path(__file__).parents[2] / "shared" / "data")) / "flickr8k"

pytestmark = [
    pytest.mark.data,
    pytest.mark.network,
    pytest.mark.skipif(not ROOT.is_dir(), reason="Flickr8k is not here; LLM2CLIP_DATA names its parent folder"),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("nano")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1,000 dev images as files, in a folder of their own."""
    folder = tmp_path_factory.mktemp("flickr8k") / "images"
    folder.mkdir()
    files = read_shard_images(ROOT, name="flickr8k", split="dev")
    for name in files:
        (folder / name).write_bytes(files.read(name))
    return folder


@pytest.fixture(scope="module")
def opened(images: Path, encoder: Encoder) -> SearchIndex:
    index = images.parent / ".llm2clip"
    summary = index_folder(images, encoder=encoder, index=index)
    assert (summary.indexed, summary.failed, summary.total) == (1000, 0, 1000)
    return open_index(index)


def test_captions_find_their_images(opened: SearchIndex, run_cli: RunCli) -> None:
    """image_retrieval R@10 over all 5,000 captions; the command line gives the same first image."""
    captions = read_shard_captions(ROOT, split="dev", lang="en")
    _, ids = opened.query_texts(captions.texts, k=10)
    names = {row["id"]: Path(row["path"]).name for row in opened.snapshot.metadata().to_pylist()}
    found = np.array([image in [names[i] for i in row] for image, row in zip(captions.image_ids, ids, strict=True)])
    assert found.mean() >= 0.72
    for place in range(0, len(captions.texts), 1000):
        done = run_cli("query", captions.texts[place], "--json", "-k", "1", "--index", opened.snapshot.folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["id"] == ids[place, 0]


def test_a_changed_folder_costs_only_its_changes(images: Path, opened: SearchIndex, encoder: Encoder) -> None:
    """Nothing changed: nothing embedded. Ten added, renamed and deleted: exactly ten embedded."""
    index = opened.snapshot.folder
    again = index_folder(images, encoder=encoder, index=index)
    assert (again.indexed, again.unchanged) == (0, 1000)
    files = sorted(images.iterdir())
    renamed = {row["path"]: row["id"] for row in opened.snapshot.metadata().to_pylist()}
    for number in range(10):
        photograph(number, (400, 300)).save(images / f"new-{number}.jpg")
        files[number].rename(images / f"renamed-{number}.jpg")
        files[-1 - number].unlink()
    third = index_folder(images, encoder=encoder, index=index)
    assert (third.indexed, third.reused, third.removed, third.total) == (10, 10, 10, 1000)
    now = {row["path"]: row["id"] for row in open_index(index).snapshot.metadata().to_pylist()}
    for number in range(10):
        assert now[f"images/renamed-{number}.jpg"] == renamed[f"images/{files[number].name}"]
    assert index_folder(images, encoder=encoder, index=index).indexed == 0


def test_images_find_their_captions(tmp_path: Path, encoder: Encoder, run_cli: RunCli) -> None:
    """text_retrieval through an index of captions is that of the benchmark, to the bit."""
    dataset = read_captioned_shards(ROOT, "dev", ["en"], name="flickr8k")
    cache = tmp_path / "cache"
    [measured] = measure_retrieval(encoder, dataset, cache=cache)
    captions = dataset.captions["en"]
    lines = (json.dumps({"caption": text, "image": name}) for text, name in captions_and_images(captions))
    (tmp_path / "dev.jsonl").write_text("\n".join(lines))
    index = tmp_path / ".llm2clip"
    done = run_cli("index", tmp_path / "dev.jsonl", "--modality", "text", "--text", "caption", "--index", index)
    assert done.returncode == 0, done.stderr
    opened = open_index(index)
    names = {row["id"]: row["image"] for row in opened.snapshot.metadata().to_pylist()}
    assert len(names) == len(captions.texts)
    files = list(dataset.images)
    _, ids = opened.search(embed_images(encoder, dataset.images, cache=cache), k=10)
    found = np.array([[names[caption] == name for caption in row] for name, row in zip(files, ids, strict=True)])
    for k in (1, 5, 10):
        recall = np.float32(found[:, :k].any(axis=1).sum()) / np.float32(len(files))
        assert recall == measured.metrics[f"text_retrieval_recall@{k}"]
    for place in range(0, len(files), 400):
        image = tmp_path / files[place]
        image.write_bytes(dataset.images.read(files[place]))
        done = run_cli("query", "--image", image, "--find", "texts", "--json", "--index", index)
        assert done.returncode == 0, done.stderr
        assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ids[place].tolist()


def captions_and_images(captions: Captions) -> Iterator[tuple[str, str]]:
    return zip(captions.texts, captions.image_ids, strict=True)
