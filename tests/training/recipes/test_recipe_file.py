"""Recipe files: what is written is read again, and whatever is wrong is said with file, line and field."""

from dataclasses import replace
from pathlib import Path

import pytest

from llm2clip_search.errors import InputError
from llm2clip_search.training import RECIPES, find_recipe
from llm2clip_search.training.recipes.recipe_file import parse_recipe, recipe_toml
from llm2clip_search.training.recipes.registry import recipe_text
from tests.support.commands import RunCli

NANO = recipe_text("nano")


def line_of(start: str, text: str = NANO) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith(start))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_written_is_read_again(name: str) -> None:
    assert parse_recipe(recipe_toml(RECIPES[name]), "x.toml") == RECIPES[name]


def test_nano_is_what_the_included_model_says() -> None:
    """The configuration of the shipped model is that of the recipe that made it, but for what training adds."""
    from llm2clip_search.encoders.registry import resolve

    shipped, model = resolve("nano").config, find_recipe("nano").stage2.model
    text = replace(shipped.text, hidden_layers=(-1,), standardised=False)  # of the LLM, which stage 1 decides
    assert replace(shipped, calibration=None, text=text) == model
    assert (shipped.text.hidden_layers, shipped.text.standardised) == ((7,), True)
    assert find_recipe("nano").stage1.text == replace(shipped.text, adaptor=None)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("clip.loop.steps=200", 200), ("clip.loop.steps = 70", 70)],
)
def test_a_setting_replaces_a_value(setting: str, value: int) -> None:
    assert find_recipe("nano", [setting]).stage2.loop.steps == value
    assert find_recipe("nano").stage2.loop.steps == 500


def test_settings_reach_tables_that_the_file_does_not_have() -> None:
    changed = find_recipe("nano", ["data.long.seed=3", "clip.vision.lora.rank=4"])
    assert changed.data.long is not None
    assert changed.data.long.seed == 3
    assert changed.stage2.vision.lora is not None
    assert changed.stage2.vision.lora.rank == 4


@pytest.mark.parametrize(
    ("before", "after", "at", "message"),
    [
        ("temperature = 0.05", "temperatur = 0.05", "temperatur ", "[clip] has no field 'temperatur'; did you mean"),
        ('split = "val"', 'splt = "val"', "splt ", "[data.dev.captions] has no field 'splt'; did you mean 'split'?"),
        ("[clip.loop]", "[clip.lop]", "[clip.lop]", "[clip] has no field 'lop'; did you mean 'loop'?"),
        ("steps = 500", 'steps = "many"', 'steps = "many"', "clip.loop.steps is 'many', but expected int, got str"),
        ("steps = 500", "steps = -3", "steps = -3", "cannot have steps -3"),
        ('mode = "full"', 'mode = "ful"', 'mode = "ful"', "clip.vision.mode is 'ful'; did you mean 'full'?"),
        ('mode = "full"', 'mode = "last"', 'mode = "last"', "mode 'last' needs blocks = 1 or more, not 0"),
        ("blocks = 0", "blocks = 0.5", "blocks = 0.5", "model.text.adaptor.blocks is 0.5, but expected int, got float"),
        ("images = 11046", "", "[size]", "[size] lacks 'images'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(before: str, after: str, at: str, message: str) -> None:
    text = NANO.replace(before, after, 1)
    with pytest.raises(InputError) as raised:
        parse_recipe(text, "my.toml")
    assert str(raised.value).startswith(f"my.toml, line {line_of(at, text)}: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["clip.loop.stps=3"], "the setting clip.loop.stps: [clip.loop] has no field 'stps'; did you mean 'steps'?"),
        (["clip.loop.learning_rate=-1"], "the setting clip.loop.learning_rate: A run of 500 steps cannot have"),
        (["clip"], "'clip' is no setting: one is written FIELD=VALUE"),
        (["clip.=3"], "is no setting"),
        (["name.first=3"], "leads into name, which is no table"),
        (["clip.batch_size=1"], "the setting clip.batch_size: batch_size is 1, but it has to be at least 2"),
        (["clip.micro_batch=0"], "micro_batch is 0, but it has to be at least 1"),
        (["clip.temperature=0"], "temperature is 0.0, but it has to be greater than 0"),
        (["clip.text_dropout=1"], "text_dropout is 1.0, but it has to be at least 0 and less than 1"),
        (["clip.lang_weights.de=-1"], "lang_weights is"),
        (
            ["clip.augmentation.crop=0"],
            "clip.augmentation.crop: crop is 0.0, but it has to be greater than 0",
        ),
        (["data.long.parts=[1]"], "parts is (1,), but it has to be numbers of at least 2"),
        (["captions.lora.rank=0"], "rank is 0, but it has to be at least 1"),
        (["captions.joined=1.5"], "joined is 1.5, but it has to be between 0 and 1"),
        (["clip.hard_negatives.share=0.5"], "clip.hard_negatives needs a model to begin from"),
        (["clip.anchor.images=1"], "clip.anchor needs a model to begin from"),
        (
            ["clip.vision.mode=lora"],
            "the setting clip.vision.mode: The vision tower has no linear layers in its blocks, which mode 'lora'",
        ),
        (["clip=3"], "the setting clip: clip is 3, but it has to be a table"),
        (["optimiser=adam"], "a recipe has no field 'optimiser'; it has name, model"),
    ],
)
def test_a_wrong_setting_is_said(settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        find_recipe("nano", settings)
    assert message in str(raised.value)


def test_what_is_no_toml_is_said_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('name = "x"\nsteps = = 3\n')
    with pytest.raises(InputError, match=r"my\.toml is not TOML: .*line 2"):
        find_recipe(str(tmp_path / "my.toml"))
    with pytest.raises(InputError, match=r"none\.toml cannot be read: no such file"):
        find_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(InputError, match=r"latin\.toml cannot be read"):
        find_recipe(str(tmp_path / "latin.toml"))


def test_a_recipe_that_is_shown_can_be_trained_with(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(run_cli("train", "recipes", "show", "nano").stdout)
    assert find_recipe(str(tmp_path / "my.toml")) == find_recipe("nano")
    shown = run_cli("train", "captions", "my.toml", "--dry-run", "--set", "captions.loop.steps=123")
    assert shown.returncode == 0, shown.stderr
    assert "123" in next(line for line in shown.stdout.splitlines() if line.startswith("steps"))
    done = run_cli("train", "clip", "my.toml", "--set", "clip.loop.stps=1")
    assert done.returncode == 1
    assert "did you mean 'steps'?" in done.stderr
