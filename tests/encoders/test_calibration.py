"""Calibrations: their formula, their place in a model folder, and what they leave alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search import load_encoder
from llm2clip_search.encoders.calibration import Calibration
from llm2clip_search.encoders.config import ModelConfig, write_calibration
from llm2clip_search.encoders.registry import own_folder, resolve
from llm2clip_search.errors import ModelError

CALIBRATION = Calibration(lead=3.5, cosine=2.0, offset=-4.0, fitted_on=("toy dev en",))
slopes = st.floats(0, 1e3)


@given(slopes, slopes, st.floats(-1e3, 1e3), st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.integers(1, 10**9))
def test_a_probability_grows_with_the_score(
    lead: float, cosine: float, offset: float, scores: list[float], rows: int
) -> None:
    best = np.sort(np.array(scores))[::-1]
    of_query = Calibration(lead=lead, cosine=cosine, offset=offset).for_query(best, rows)
    found = [of_query(score) for score in best.tolist()]
    assert found == sorted(found, reverse=True)
    assert all(0.0 <= each <= 1.0 for each in found)


@pytest.mark.parametrize(
    "values",
    [{"lead": -0.1}, {"cosine": -1}, {"lead": float("nan")}, {"offset": float("inf")}, {"lead": "3"}, {"offset": None}],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a calibration of"):
        Calibration(**{"lead": 1.0, "cosine": 1.0, "offset": 0.0} | values)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "mine")


def test_it_is_stored_in_the_folder_and_changes_no_embedding(folder: Path) -> None:
    before, raw = resolve(f"dir:{folder}").identity.fingerprint, json.loads((folder / "config.json").read_text())
    assert load_encoder(f"dir:{folder}").calibration is None
    write_calibration(own_folder(f"dir:{folder}"), CALIBRATION)
    assert ModelConfig.read(folder / "config.json").calibration == CALIBRATION
    assert load_encoder(f"dir:{folder}").calibration == CALIBRATION
    assert resolve(f"dir:{folder}").identity.fingerprint == before
    after = json.loads((folder / "config.json").read_text())
    assert after | {"calibration": None} == raw | {"calibration": None}


@pytest.mark.parametrize(
    "stored",
    [
        {"lead": -1.0, "cosine": 0.0, "offset": 0.0},
        {"lead": 1.0},
        {"lead": 1.0, "cosine": 1.0, "offset": 0.0, "x": 1},
        7,
    ],
)
def test_a_broken_entry_is_one_sentence(folder: Path, stored: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": stored}))
    with pytest.raises(ModelError, match="does not describe a model") as caught:
        load_encoder(f"dir:{folder}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="does not describe a model"):
        write_calibration(folder, CALIBRATION)


def test_published_models_are_not_changed() -> None:
    with pytest.raises(ModelError, match="open_clip:ViT-B-32/openai is a published model") as caught:
        own_folder("open_clip:ViT-B-32/openai")
    assert "dir:PATH" in caught.value.hint
