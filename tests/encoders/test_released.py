"""Configurations of model folders of every released schema stay readable, and their models keep their fingerprints."""

import shutil
from pathlib import Path

import pytest

from llm2clip_search.encoders.config import SCHEMA_VERSION, ModelConfig
from llm2clip_search.encoders.registry import resolve

FIXTURES = Path(__file__).parent / "fixtures"
FINGERPRINTS = {"v2": "9efb0364c6bb5183"}
"""As the version that wrote a configuration computed it, with `TENSORS` beside it."""
TENSORS = b"tensors of a model"


def test_the_present_schema_has_a_fixture() -> None:
    """Schema 1 was never released: no version since 0.1.0 reads it."""
    assert sorted(path.name for path in FIXTURES.iterdir()) == [f"v{each}" for each in range(2, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_released_configuration_keeps_its_fingerprint(tmp_path: Path, name: str) -> None:
    """An index of the model would refuse another one."""
    folder = Path(shutil.copytree(FIXTURES / name, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(TENSORS)
    assert resolve(f"dir:{folder}").identity.fingerprint == FINGERPRINTS[name]


def test_options_that_are_newer_have_values_that_change_nothing() -> None:
    config = ModelConfig.read(FIXTURES / "v2" / "config.json")
    assert (config.text.lower_case, config.text.overlong, config.calibration) == (False, "keep_suffix", None)
    assert config.vision.pooled_modules == ("blocks.5", "blocks.6")
