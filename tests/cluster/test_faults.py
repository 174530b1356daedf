"""What dies in a cluster: every image is embedded once, or the run ends with a sentence and keeps what it has."""

from pathlib import Path

import pytest

from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.corpora import Corpus, FolderCorpus
from llm2clip_search.errors import ClusterError
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus
from llm2clip_search.indexers.on_ray import RayEmbedding
from tests.support.encoders import ColourEncoder
from tests.support.faults_of_nodes import DyingCorpus, DyingEncoder
from tests.support.folders import check
from tests.support.images import png


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty images, and a folder for markers beside them."""
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "markers").mkdir()
    for number in range(40):
        (folder / f"{number:02d}.png").write_bytes(png(number))
    return folder


def index(corpus: Corpus, folder: Path, address: str, encoder: ColourEncoder, **options: object) -> IndexSummary:
    """Index into ``.llm2clip`` beside the images, in small batches and units."""
    return index_corpus(
        corpus,
        encoder=encoder,
        index=folder.parent / ".llm2clip",
        config=IndexConfig(batch_size=4),
        embedding=RayEmbedding(ClusterConfig(address=address, **options)),  # type: ignore[arg-type]
    )


def test_a_killed_encoder_and_a_killed_reader_lose_nothing(images: Path, ray_address: str) -> None:
    markers = images.parent / "markers"
    corpus = DyingCorpus(images, name="17.png", markers=markers, times=1)
    (markers / "encoder").mkdir()
    summary = index(corpus, images, ray_address, DyingEncoder(markers / "encoder", times=1))
    assert (summary.indexed, summary.failed) == (40, 0)
    assert (markers / "died-0").exists()
    assert (markers / "encoder" / "died-0").exists()
    check(images, ColourEncoder())


@pytest.mark.slow
def test_an_encoder_that_always_dies_ends_the_run_with_a_sentence(images: Path, ray_address: str) -> None:
    encoder = DyingEncoder(images.parent / "markers", times=100)
    with pytest.raises(ClusterError, match=r"^The cluster has lost the same work 3 times: .* died") as raised:
        index(FolderCorpus(images), images, ray_address, encoder)
    assert "\n" not in str(raised.value)
    assert not list((images.parent / ".llm2clip").glob(".cluster/*"))
