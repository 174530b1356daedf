"""The encoder protocol in ten lines, and encoders that other packages provide."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.encoders import Encoder, ModelIdentity, TowerEncoder, load_encoder
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.inputs import ImageInput
from llm2clip_search.encoders.plugins import load_plugin
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.errors import ImageError, ModelError
from tests.support.images import photograph

PACKAGE = """
import numpy as np
from llm2clip_search.encoders import Encoder, ModelIdentity
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.errors import ModelError


class Brightness(Encoder):
    dim, max_tokens, preprocess = 2, 77, PreprocessConfig(height=8, width=8, resize="squash")

    def __init__(self, reference):
        self.identity = ModelIdentity.from_name(reference)

    def encode_pixels(self, pixels):
        bright = pixels.reshape(len(pixels), -1).mean(axis=1) > 127
        return np.stack([bright, ~bright], axis=1).astype(np.float32)

    def encode_texts(self, texts, *, batch_size=64):
        bright = np.array(["day" in text for text in texts], dtype=bool)
        return np.stack([bright, ~bright], axis=1).astype(np.float32)

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


def load(reference):
    rest = reference.partition(":")[2]
    if rest == "missing":
        raise ModelError("There is no brightness model 'missing'.")
    return {"plain": Brightness}[rest](reference)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with three entry points: one works, the module of one fails, and one has a built-in name."""
    import sys

    info = tmp_path / "bright_encoder-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bright-encoder\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[llm2clip_search.encoders]\n"
        "bright = bright_encoder:load\nbroken = bright_broken:load\ndir = bright_broken:load\n"
    )
    (tmp_path / "bright_encoder.py").write_text(PACKAGE)
    (tmp_path / "bright_broken.py").write_text("raise RuntimeError('no licence key')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("bright_encoder", None)


def test_a_scheme_of_another_package_is_loaded_by_it(installed: None) -> None:
    encoder = load_encoder("bright:plain")
    assert (encoder.name, encoder.dim, encoder.training_data) == ("bright:plain", 2, ())
    assert encoder.fingerprint == ModelIdentity.from_name("bright:plain").fingerprint
    pictures: list[ImageInput] = [photograph(1), np.zeros((9, 9, 3), np.uint8), np.full((9, 9), 255, np.uint8)]
    assert encoder.encode_images(pictures, batch_size=2).tolist()[1:] == [[0.0, 1.0], [1.0, 0.0]]


def test_options_that_a_plug_in_does_not_take_are_reported(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    load_encoder("bright:plain")
    assert caplog.messages == []
    load_encoder("bright:plain", device="cpu")
    assert caplog.messages == [
        "bright:plain is loaded by bright-encoder 1.2, which chooses runtime, device and precision itself."
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken:x", r"bright-encoder 1\.2 could not open 'broken:x' \(RuntimeError: no licence key\)"),
        ("bright:other", r"bright-encoder 1\.2 could not open 'bright:other' \(KeyError: 'other'\)"),
        ("bright:missing", r"^There is no brightness model 'missing'\.$"),
        ("ftp:x", r"'ftp' is not a known scheme; those are open_clip:, hf:, dir:, bright:, broken:\.$"),
        ("nonsense", "There is no model 'nonsense'"),
    ],
)
def test_what_a_plug_in_cannot_load_names_its_distribution(installed: None, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_encoder(name)


def test_built_in_schemes_win(installed: None, tiny_model: Path) -> None:
    assert isinstance(load_encoder(f"dir:{tiny_model}"), TowerEncoder)
    with pytest.raises(ModelError, match=r"is an encoder of the package bright-encoder 1\.2 and has no model folder"):
        resolve("bright:plain")
    with pytest.raises(ModelError, match="No installed package provides encoders of the scheme 'bright2'"):
        load_plugin("bright2:x")


class Constant(Encoder):
    """The smallest test double, in ten lines."""

    identity, dim, max_tokens = ModelIdentity.from_name("constant"), 4, 77
    preprocess = PreprocessConfig(height=32, width=32)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return np.full((len(pixels), 4), 0.5, dtype=np.float32)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        return np.full((len(texts), 4), 0.5, dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def test_a_subclass_inherits_what_follows_from_the_rest(tmp_path: Path) -> None:
    encoder = Constant()
    assert (encoder.name, encoder.training_data) == ("constant", ())
    assert encoder.fingerprint != ModelIdentity.from_name("other").fingerprint
    assert encoder.encode_images([photograph(1)] * 5, batch_size=2).shape == (5, 4)
    assert encoder.encode_images([]).shape == (0, 4)
    with pytest.raises(ImageError, match=r"nowhere\.png: No such file"):
        encoder.encode_images([tmp_path / "nowhere.png"])
