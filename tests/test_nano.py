"""The model that comes along, as a newcomer meets it: the demo, a long caption, both runtimes."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search import load_encoder, open_index
from llm2clip_search.cli.demo import CAPTIONS
from llm2clip_search.encoders.towers import Runtime
from tests.support.commands import RunCli

pytestmark = pytest.mark.network

_RUNTIMES: tuple[Runtime, ...] = ("onnx", "torch")
PICTURES = ("camera.png", "chelsea.png", "motorcycle_left.png")
"""What the demo's captions describe, in order."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo ran, as a command would leave it."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("newcomer")
    done = subprocess.run(
        [sys.executable, "-c", "from llm2clip_search.cli.app import main; main()", "demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for caption, picture in zip(CAPTIONS, PICTURES, strict=True):
        shown = done.stdout.split(caption)[1].splitlines()
        assert picture in shown[2], done.stdout
    return folder / "llm2clip-demo"


def test_the_demo_leaves_an_index_that_answers(demo: Path, run_cli: RunCli) -> None:
    """Found from the folder itself, by caption and by picture."""
    done = run_cli("query", CAPTIONS[0], "-k", "1", "--json", cwd=demo)
    assert json.loads(done.stdout)["path"].endswith(PICTURES[0])
    done = run_cli("query", "--image", demo / "photographs" / PICTURES[1], "-k", "1", "--json", cwd=demo)
    first = json.loads(done.stdout)
    assert first["path"].endswith(PICTURES[1])
    assert first["score"] > 0.99


def test_a_caption_longer_than_the_model_reads_is_told(demo: Path) -> None:
    """Both token counts are in the sentence, and the query is answered all the same."""
    caption = " ".join(["a dog and a cat"] * 200)
    opened = open_index(demo / ".llm2clip")
    (count,) = opened.encoder.count_tokens([caption])
    result = opened.query(caption, k=1)
    assert len(result.hits) == 1
    assert f"{count} tokens" in result.warnings[0]
    assert f"reads {opened.encoder.max_tokens};" in result.warnings[0]


def test_both_runtimes_agree(demo: Path) -> None:
    """ONNX Runtime's vectors are torch's within 1e-3 cosine, on real photographs and captions in five languages."""
    captions = [
        "a dog",
        "Ein Hund läuft durch den Schnee.",
        "一只狗在雪地里奔跑",
        "Un chien court.",
        "Pes běží sněhem.",
    ]
    pictures = sorted((demo / "photographs").iterdir())
    onnx, torch = (load_encoder("nano", runtime=runtime) for runtime in _RUNTIMES)
    for one, other in (
        (onnx.encode_texts(captions), torch.encode_texts(captions)),
        (onnx.encode_images(pictures), torch.encode_images(pictures)),
    ):
        assert (1.0 - np.sum(one * other, axis=1)).max() < 1e-3
