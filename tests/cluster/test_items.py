"""Captions of training and data sets of benchmarks, embedded on a cluster: the bits of one process."""

from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.embedding import PART, embed_captions, embed_images
from llm2clip_search.cluster.items import images_on_ray, texts_on_ray
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.cluster.work import EncoderSource
from llm2clip_search.corpora import Item
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import ImageError
from tests.support.encoders import ColourEncoder
from tests.support.images import png


def test_captions_and_images_of_a_benchmark_equal_those_of_one_process(tmp_path: Path, ray_address: str) -> None:
    encoder, cluster = ColourEncoder(), ClusterConfig(address=ray_address)
    texts = [f"caption {number} of a photograph" for number in range(PART + 50)]
    found = embed_captions(encoder, texts, cache=tmp_path / "ray", cluster=cluster)
    assert found.tobytes() == embed_captions(encoder, texts, cache=None).tobytes()
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(number))
    images = ImageFiles.scan(tmp_path, ["images"])
    found = embed_images(encoder, images, cache=tmp_path / "ray", cluster=cluster)
    assert found.tobytes() == embed_images(encoder, images, cache=None).tobytes()
    nowhere = ClusterConfig(address="127.0.0.1:1")
    again = embed_captions(encoder, texts, cache=tmp_path / "ray", cluster=nowhere)  # cached
    np.testing.assert_array_equal(again, embed_captions(encoder, texts, cache=None))
    assert not list((tmp_path / "ray").glob(".cluster/*"))


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, ray_address: str) -> None:
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = ImageFiles.scan(tmp_path, ["."])
    with pytest.raises(ImageError, match=r"^bad\.png: "):
        list(
            images_on_ray(
                [[Item(uri="good.png"), Item(uri="bad.png")]],
                images,
                EncoderSource.of(ColourEncoder()),
                ClusterConfig(address=ray_address),
                owner=str(tmp_path),
                drafts=False,
                batch_size=4,
            )
        )


def test_no_parts_ask_no_cluster() -> None:
    nowhere = ClusterConfig(address="127.0.0.1:1")
    assert list(texts_on_ray([], EncoderSource.of(ColourEncoder()), nowhere, owner="nobody")) == []
