"""All stages on own data, by the command line and killed at any instant; the model that they start from is tiny."""

import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llm2clip_search.base.progress import no_progress
from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.errors import ModelError
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.training.compare_runs import compare_training_runs, read_run
from llm2clip_search.training.own_estimate import estimate_own
from llm2clip_search.training.recipes.own import read_own_recipe
from llm2clip_search.training.run import run_own_recipe
from llm2clip_search.training.runtime.costs import DeviceSpeed
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.metrics_log import read_metrics
from tests.support import own_data
from tests.support.commands import RunCli
from tests.support.corpus import jpeg, write_csv
from tests.support.html_reader import assert_self_contained
from tests.support.models import add_querybank, save_model
from tests.support.toy_training import start

FAST = (
    "clip.loop.steps=6",
    "clip.loop.warmup_steps=1",
    "clip.loop.evaluate_every=2",
    "clip.loop.checkpoint_every=2",
    "clip.loop.patience=0",
    "clip.batch_size=6",
    "clip.micro_batch=4",
    "clip.vision.blocks=1",
    "clip.hard_negatives.nearest=3",
    "clip.bf16=false",
)
"""Settings with which a run takes seconds, whatever train init measured; batches hold hard negatives."""
STAGE1 = (
    "captions.loop.steps=12",
    "captions.loop.warmup_steps=1",
    "captions.loop.checkpoint_every=2",
    "captions.lora.rank=2",
    "captions.batch_size=4",
    "captions.micro_batch=4",
    "captions.bf16=false",
)
"""Likewise, of recipes with stage 1."""


def settings(*more: str) -> list[str]:
    return [part for setting in (*FAST, *more) for part in ("--set", setting)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images with captions in two layouts, and a set to be forgotten."""
    folder = tmp_path_factory.mktemp("own")
    add_querybank(save_model(folder / "start"), strength=2.0)
    (folder / "start" / "NOTICE").write_text("terms that have to be passed on")
    own_data.folder_with_texts(folder / "things")
    own_data.folder_and_table(folder / "folders", folder / "rows.csv")
    own_data.folder_with_texts(folder / "others", {n: [f"other {n}"] for n in range(12)}, first=200)
    return folder


@pytest.fixture(scope="module")
def recipe(place: Path) -> Path:
    """A recipe that train init wrote."""
    from tests.support.commands import run_in_process

    arguments = ("--data", "things", "--evaluate", "others=others", "--from", f"dir:{place / 'start'}")
    done = run_in_process("train", "init", "my.toml", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines[1:]] == [["train", "10", "15"], ["val", "2", "3"], ["others", "12", "12"]]
    assert "unknown 15" in done.stdout
    assert re.search(
        r"Measured: a small training step of matrix products takes .* so bf16 = (true|false)\.", done.stderr
    )
    assert re.search(r"\nMemory: about \d\.\d GB in stage 2; this machine has \d+\.\d GB\.", done.stderr)
    return place / "my.toml"


@pytest.fixture(scope="module")
def tuned(recipe: Path, place: Path) -> tuple[Path, Path]:
    """A recipe with stage 1 too, and the folder of an uninterrupted run."""
    from tests.support.commands import run_in_process

    arguments = ("--data", "things", "--evaluate", "others=others", "--from", f"dir:{place / 'start'}", "--tune-llm")
    done = run_in_process("train", "init", "tuned.toml", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    began = time.monotonic()
    folder = trained(place / "tuned.toml", "tuned")
    (folder / "seconds").write_text(str(time.monotonic() - began))
    return place / "tuned.toml", folder


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The folder of an uninterrupted run."""
    began = time.monotonic()
    folder = trained(recipe, "whole")
    (folder / "seconds").write_text(str(time.monotonic() - began))
    return folder


def trained(recipe: Path, out: str) -> Path:
    """Run all stages in a process of their own, whose threads add up in one order."""
    process = start(run_and_die, recipe, recipe.parent / out, None)
    process.join()
    assert process.exitcode == 0
    return recipe.parent / out


def run_and_die(recipe: Path, out: Path, seconds: float | None) -> None:
    """Run all stages, and kill this process after some seconds."""
    torch.set_num_threads(1)
    if seconds is not None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    stage1 = STAGE1 if "[captions]" in recipe.read_text() else ()
    own = read_own_recipe(str(recipe), (*FAST, *stage1))
    run_own_recipe(own, root=recipe.parent, out=out, world=World(), progress=no_progress)
    os._exit(0)  # the timer may still run


def test_a_run_leaves_a_model_with_its_card(recipe: Path, whole: Path) -> None:
    model = whole / "model"
    encoder = load_encoder(f"dir:{model}", runtime="torch", device="cpu")
    assert encoder.encode_texts(["a thing on a table"]).shape == (1, 18)
    config, run = ModelConfig.read(model / "config.json"), json.loads((model / "run.json").read_text())
    digest = json.loads((whole / "data" / "data.json").read_text())["digest"]
    assert config.name == "my"
    assert (model / "NOTICE").read_text() == "terms that have to be passed on"
    assert config.training_data[-1].startswith(f"things, train split: 10 images with 15 captions (digest {digest})")
    card = (model / "README.md").read_text()
    assert f"Training began from dir:{recipe.parent / 'start'} (licence: unknown)." in card
    assert "10 images with 15 captions" in card
    assert "| val, und, before training |" in card
    assert "| others, und |" in card
    assert run["before"].keys() == run["figures"].keys()
    assert run["steps"] == 6
    assert not list(model.glob("*.pt"))
    assert not [*model.glob("views-*"), *model.glob("hard-negatives-*")]
    first = read_metrics(model / "metrics.jsonl")[0]
    assert (first["step"], "dev/mean_recall" in first) == (0, True)
    assert {each.low is None for each in compare_training_runs([read_run(whole)]).recalls} == {False}
    page = (whole / "run.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert "before training" in page
    assert page.count("things/photo-") > 2, "images have the names of their files"


def test_the_start_model_is_what_is_evaluated_first(recipe: Path, whole: Path) -> None:
    """Its recalls before the first step are those that the start model has by itself."""
    import io

    import numpy as np
    import pyarrow.parquet as pq

    from llm2clip_search.evaluation.metrics import retrieval_recalls
    from llm2clip_search.training.data.image_set import open_images

    encoder = load_encoder(f"dir:{recipe.parent / 'start'}", runtime="torch", device="cpu")
    images = open_images(whole / "data", ("images.parquet#others",))
    ids = list(images)
    rows = pq.read_table(whole / "data" / "captions.parquet", filters=[("split", "=", "others")]).to_pylist()
    pictures = encoder.encode_images([Image.open(io.BytesIO(images.read(each))) for each in ids])
    texts = encoder.encode_texts([row["caption"] for row in rows])
    recalls = retrieval_recalls(pictures, texts, np.array([ids.index(row["image_id"]) for row in rows]))
    before = json.loads((whole / "model" / "run.json").read_text())["before"]
    assert {name: before[f"others/und/{name}"] for name in recalls} == pytest.approx(recalls)


def test_another_layout_gives_the_same_tensors(recipe: Path, whole: Path) -> None:
    """From a table and folders instead of text files, to the bit."""
    other = recipe.with_name("other.toml")
    sources = '[[data.train]]\nsource = "folders"\ncaptions = "rows.csv"\nsplit = "train"\n'
    other.write_text(recipe.read_text().replace('[[data.train]]\nsource = "things"\n', sources))
    assert_same_tensors(trained(other, "other"), whole)


def test_a_finished_run_is_not_repeated(recipe: Path, whole: Path, run_cli: RunCli) -> None:
    before = (whole / "model" / "model.safetensors").stat().st_mtime_ns
    done = run_cli("train", "run", recipe.name, "--out", "whole", *settings(), cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert "val" in done.stdout
    assert (whole / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert "training" not in done.stderr


def test_a_file_in_place_of_the_folder_of_a_run_is_said(recipe: Path, run_cli: RunCli) -> None:
    done = run_cli("train", "run", recipe.name, "--out", "start/config.json", *settings(), cwd=recipe.parent)
    assert done.returncode == 1
    assert "The folder of the run, start/config.json, cannot be made: file exists" in " ".join(done.stderr.split())


@pytest.mark.parametrize("stage", ["captions", "embed", "clip"])
def test_single_stages_name_the_command_for_such_a_recipe(stage: str, recipe: Path, run_cli: RunCli) -> None:
    done = run_cli("train", stage, recipe.name, cwd=recipe.parent)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "the recipe has a model to begin from (start), which single stages do not take" in said
    assert "train run my.toml" in said


def test_a_second_run_in_the_same_folder_is_refused(recipe: Path, run_cli: RunCli) -> None:
    """The lock of a process that was killed is taken over, as the killed runs of this file show."""
    out = recipe.with_name("taken")
    out.mkdir()
    with writer_lock(out):
        done = run_cli("train", "run", recipe.name, "--out", "taken", *settings(), cwd=recipe.parent)
    assert done.returncode == 1
    assert f"taken is being written by process {os.getpid()} on " in " ".join(done.stderr.split())
    assert not (out / "data").exists()


def test_a_broken_image_and_new_ones_make_the_data_out_of_date(recipe: Path, run_cli: RunCli, place: Path) -> None:
    own_data.folder_with_texts(place / "more", {n: [f"more {n}"] for n in range(6)}, first=300)
    (place / "more" / "broken.jpg").write_bytes(jpeg(1)[:300])
    text = recipe.read_text().replace('source = "things"', 'source = "more"')
    (place / "more.toml").write_text(text)
    arguments = ("train", "run", "more.toml", *settings("clip.loop.steps=2", "clip.batch_size=3"))
    first = run_cli(*arguments, cwd=place)
    assert first.returncode == 0, first.stderr
    assert re.search(r"\b1 broken image\b", first.stderr)
    assert re.search(r"\nMemory: about \d\.\d GB in stage 2; this machine has \d+\.\d GB\.", first.stderr)
    own_data.folder_with_texts(place / "more", {n: [f"more {n}"] for n in range(6, 9)}, first=300)
    second = run_cli(*arguments, cwd=place)
    assert second.returncode == 0, second.stderr
    counts = json.loads((place / "more-run" / "data" / "data.json").read_text())["counts"]
    assert counts["train images"] + counts["val images"] == 9


def test_a_killed_run_ends_with_the_same_bits(recipe: Path, whole: Path) -> None:
    killed(recipe, whole, kills=2)


@pytest.mark.slow
def test_a_run_of_all_stages_that_is_killed_often_ends_with_the_same_bits(tuned: tuple[Path, Path]) -> None:
    assert killed(*tuned, kills=20) > 1


def killed(recipe: Path, whole: Path, *, kills: int) -> int:
    """Kill a run at random instants of any stage, then run it to its end; how many kills fell before the end.

    Later instants are reached by going on, because the machine may have been busier when ``whole`` was made.
    """
    draws, takes = random.Random(kills), float((whole / "seconds").read_text())
    codes = list[int | None]()
    for _ in range(kills):
        out = recipe.parent / f"{recipe.stem}-killed"
        process = start(run_and_die, recipe, out, draws.uniform(0.05, 0.5) * takes)
        process.join()
        codes.append(process.exitcode)
    assert -signal.SIGKILL in codes
    assert_same_tensors(trained(recipe, out.name), whole)
    return codes.count(-signal.SIGKILL)


def assert_same_tensors(one: Path, other: Path) -> None:
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_too_little_memory_is_said_before_training(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm2clip_search.training.run.physical_bytes", lambda: 10**6)
    own = read_own_recipe(str(recipe), FAST)
    with pytest.raises(ModelError, match=r"Stage 2 of my takes about \d\.\d GB .* this machine has 0\.0 GB"):
        run_own_recipe(own, root=recipe.parent, out=tmp_path, world=World(), progress=no_progress)


def test_low_rank_updates_of_the_vision_tower_become_part_of_its_weights(recipe: Path, run_cli: RunCli) -> None:
    """Base weights plus a product of the updates' rank, in the linear layers of the blocks; rounded to float16."""
    changes = settings("clip.vision.mode=lora", "clip.vision.lora.rank=2", "clip.loop.mix=0")
    done = run_cli("train", "run", recipe.name, "--out", "lora", *changes, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    models = [recipe.parent / "start", recipe.parent / "lora" / "model"]
    before, after = (load_file(model / "model.safetensors") for model in models)
    prefix = "vision.backbone."
    names = [name for name in before if name.startswith(prefix) and not torch.equal(before[name], after[name])]
    assert {name.split(".", 4)[4] for name in names} == {
        f"{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    for name in names:
        base, trained_weight = before[name].double(), after[name].double()
        up, scale, down = torch.linalg.svd(trained_weight - base, full_matrices=False)
        product = up[:, :2] * scale[:2] @ down[:2]
        torch.testing.assert_close(base + product, trained_weight, rtol=1e-3, atol=5e-5)
    image = Image.new("RGB", (160, 160), (200, 40, 10))
    vectors = [
        load_encoder(f"dir:{model}", runtime="torch", device="cpu").encode_images([image])[:, :16] for model in models
    ]
    assert abs(vectors[0] - vectors[1]).max() > 1e-5


def test_a_dry_run_prints_both_stages_and_writes_nothing(recipe: Path, run_cli: RunCli) -> None:
    done = run_cli("train", "run", recipe.name, "--out", "dry", "--dry-run", *settings(), cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("my, train")] == [
        "my, train embed",
        "my, train clip",
    ]
    assert "kept views" in done.stdout
    assert not (recipe.parent / "dry").exists()


def test_the_memory_of_a_tower_for_another_size_of_images_is_estimated(
    recipe: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    other = recipe.with_name("small.toml")
    other.write_text(recipe.read_text().replace(str(recipe.parent / "start"), str(save_model(tmp_path, side=48))))
    estimates = {
        path: estimate_own(
            read_own_recipe(str(path), FAST),
            {"train images": 10, "train captions": 15},
            DeviceSpeed(device="cpu", flops=1.0),
        )
        for path in (recipe, other)
    }
    large, small = (stages[-1].memory["activations"] for stages in estimates.values())
    assert small < large / 4
    done = run_cli("train", "run", other.name, "--dry-run", *settings(), cwd=recipe.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("clip.loop.stepz=3", "[clip.loop] has no field 'stepz'; did you mean 'steps'?"),
        ("data.val_shar=0.3", "[data] has no field 'val_shar'; did you mean 'val_share'?"),
        ("data.val_share=1.5", "val_share is 1.5, but it has to be between 0 and 1"),
        ('name=""', "name is empty, but a model needs one"),
        (
            'data.train=[{source="gone"}]',
            "the setting data.train.source: data.train.source names gone, which does not exist",
        ),
        ('data.val=[{source="things",captions="no.csv"}]', "data.val.captions names no.csv, which does not exist"),
        ("start=nanu", "There is no model 'nanu'"),
        ("clip.anchor.images=-1", "An anchor cannot have images -1"),
        ("clip.loop.mix=1", "cannot have mix 1"),
        ("data.near_duplicates=2", "near_duplicates is 2.0, but it has to be between 0 and 1"),
        ("clip.hard_negatives.share=1", "clip.hard_negatives.share: share is 1.0, but it has to be between 0 and 1"),
        (
            "clip.vision.blocks=99",
            "the setting clip.vision.blocks: The vision tower has 6 blocks, but the last 99 are to be trained.",
        ),
        ("clip.vision.mode=lorra", "clip.vision.mode is 'lorra'; did you mean 'lora'?"),
        ("clip.vision.blocks=0", "mode 'last' needs blocks = 1 or more, not 0"),
    ],
)
def test_a_wrong_value_is_said(setting: str, message: str, recipe: Path, run_cli: RunCli) -> None:
    done = run_cli("train", "run", recipe.name, "--out", "wrong", *settings(setting), cwd=recipe.parent)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.txt", "--data", "things"), "x.txt is no recipe file: its name has to end in .toml."),
        (("my.toml", "--data", "things"), "my.toml exists. hint: Delete it"),
        (("x.toml", "--data", "nowhere"), "nowhere"),
        (("x.toml", "--data", "things", "--evaluate", "others"), "'others' is not what --evaluate takes"),
        (
            ("x.toml", "--data", "things", "--evaluate", "a=others", "--evaluate", "a=folders"),
            "--evaluate has the name 'a' twice",
        ),
        (
            ("x.toml", "--data", "things", "--evaluate", "a=others", "--evaluate-captions", "b=rows.csv"),
            "--evaluate-captions names the set 'b', which --evaluate does not",
        ),
        (("x.toml", "--data", "things", "--val-captions", "rows.csv"), "--val-captions names captions of --val"),
        (
            ("x.toml", "--data", "folders", "--captions", "rows.csv", "--val-split", "vall"),
            "no captions of split 'vall'",
        ),
        (("x.toml", "--data", "things", "--from", "open_clip:ViT-B-32"), "names no weights"),
        (
            ("x.toml", "--data", "things", "--from", "open_clip:ViT-B-32/openai", "--llm", "open_clip:RN50/openai"),
            "The LLM of open_clip:RN50/openai cannot read captions for open_clip:ViT-B-32/openai: its text tower",
        ),
    ],
)
def test_init_says_what_is_wrong(arguments: tuple[str, ...], message: str, recipe: Path, run_cli: RunCli) -> None:
    done = run_cli("train", "init", *arguments, cwd=recipe.parent)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert not recipe.with_name("x.toml").exists()


def test_an_llm_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    from llm2clip_search.encoders.llm import save_tokenizer
    from tests.support.models import save_llm

    save_llm(tmp_path / "llm")
    with pytest.raises(ModelError, match="tokenizer"):
        save_tokenizer(f"dir:{tmp_path / 'llm'}", tmp_path)


def test_images_whose_names_are_not_utf8_are_trained_on(place: Path, run_cli: RunCli) -> None:
    folder = own_data.folder_with_texts(place / "odd")
    for path in sorted(folder.iterdir()):
        path.rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9-" + os.fsencode(path.name)))
    done = run_cli("train", "init", "odd.toml", "--data", "odd", "--from", f"dir:{place / 'start'}", cwd=place)
    assert done.returncode == 0, done.stderr
    done = run_cli("train", "run", "odd.toml", "--out", "odd-run", *settings(), cwd=place)
    assert done.returncode == 0, done.stderr
    assert "/odd/caf\ufffd-photo-" in (place / "odd-run" / "run.html").read_text()


def test_the_language_of_most_captions_selects_the_checkpoint(place: Path, run_cli: RunCli) -> None:
    """If the recipe names none: rows of own data are in the order of hashes, and of languages of an image."""
    images = sorted(own_data.folder_with_texts(place / "two", {n: ["unused"] for n in range(12)}).glob("*.jpg"))
    rows = [
        {"file_name": f"two/{each.name}", "caption": f"{lang} {number} {each.stem}", "lang": lang}
        for each in images
        for lang, count in (("aa", 1), ("de", 2))
        for number in range(count)
    ]
    write_csv(place / "two.csv", rows)
    done = run_cli("train", "init", "two.toml", "--data", "two.csv", "--from", f"dir:{place / 'start'}", cwd=place)
    assert done.returncode == 0, done.stderr
    done = run_cli("train", "run", "two.toml", "--out", "two-run", *settings(), cwd=place)
    assert done.returncode == 0, done.stderr
    figures = json.loads((place / "two-run" / "model" / "run.json").read_text())["figures"]
    assert [name for name in figures if name.endswith("/mean_recall")] == ["val/de/mean_recall", "val/aa/mean_recall"]
    assert figures["mean_recall"] == figures["val/de/mean_recall"]
