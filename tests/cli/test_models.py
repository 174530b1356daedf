"""``models list``, ``show`` and ``pull`` as users see them."""

import json
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from llm2clip_search.cli.app import app
from llm2clip_search.encoders import memory_fit as memory
from llm2clip_search.encoders.catalogue import catalogue_models
from llm2clip_search.encoders.checkpoints.pull import converted_folder
from llm2clip_search.encoders.memory_fit import DeviceMemory
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.towers import build_module
from tests.support.commands import RunCli, is_one_error
from tests.support.models import save_model

SIXTEEN = (DeviceMemory(device="cpu", bytes=16 * 10**9, bytes_per_parameter=4.0),)
NAME = "llm2clip-openai-l-14-336"


def answer(*arguments: str) -> str:
    """What a ``models`` command prints on stdout."""
    done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GB and no GPU."""
    monkeypatch.setattr(memory, "machine_memory", lambda: SIXTEEN)


def test_list_shows_what_fits(run_cli: RunCli) -> None:
    done = run_cli("models", "list")
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows, blank, last = done.stdout.splitlines()
    assert blank == ""
    assert last.startswith(("Memory here: cpu ", "Memory here: cuda ", "Memory here: mps "))
    assert header.split("  ")[0] == "name"
    listed = [row.split(" ")[0] for row in rows]
    assert [*catalogue_models(), "open_clip:ARCH/TAG", "hf:OWNER/REPO", "dir:PATH"] == listed


def test_recommend_names_the_best_first(machine: None) -> None:
    found = [json.loads(line) for line in answer("recommend", "--tokens", "200", "--json").splitlines()]
    assert [entry["name"] for entry in found] == ["llm2clip-llama3.2-1b-eva02-l-14-336", "nano"]
    header, first, *_ = answer("recommend", "--gpu", "24GB", "-k", "1").splitlines()
    assert " ".join(header.split()) == "name R@1 short R@1 long tokens to index to query languages licence"
    assert first.startswith("llm2clip-llama3.1-8b-siglip2-so400m-patch14-224")
    done = CliRunner().invoke(app, ["models", "recommend", "--tokens", "600"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "No model of the catalogue does this with cpu 16.00 GB." in done.stderr


def test_a_row_shows_both_towers(machine: None) -> None:
    (row,) = [line for line in answer("list").splitlines() if line.startswith(f"{NAME} ")]
    assert " ".join(row.split()) == (
        f"{NAME} LLM2CLIP, OpenAI ViT-L/14, Llama-3-8B English (as trained) apache-2.0"
        " 336 512 305M 7.78B 1.22 GB 31.11 GB images"
    )


def test_list_keeps_what_fits(machine: None) -> None:
    found = [json.loads(line) for line in answer("list", "--fits", "--json").splitlines()]
    every = [json.loads(line) for line in answer("list", "--json").splitlines()]
    assert {entry["fits"] for entry in found} == {"yes"}
    assert [entry for entry in every if entry["fits"] == "yes"] == found
    names = {entry["name"] for entry in found}
    assert names > {"nano", "llm2clip-llama3.2-1b-eva02-l-14-336", "open_clip:ViT-SO400M-14-SigLIP2/webli"}
    assert NAME not in names


def test_a_card_is_shown_without_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path))
    lines = [" ".join(line.split()) for line in answer("show", NAME.upper()).splitlines()]
    for line in (
        f"model {NAME} (not on this machine; models pull {NAME} fetches about 17.32 GB)",
        "weights hf:microsoft/LLM2CLIP-Openai-L-14-336@92512331f393a003c3d98404677f991c188162c9",
        "space 1280 dimensions",
        "pixels 336x336",
        "parameters 305M to index images, 7.78B to query",
        "LLM microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned, hidden width 4096; the adaptor fits no other width",
        "licence apache-2.0",
        "training data unknown",
        "LLM2CLIP-60M on CLIP L/14-336 93.9 / 84.3 68.5 / 54.8 98.9 / 99.1 96.6 / 97.9 89.6 / 91.6",
    ):
        assert line in lines
    assert "https://arxiv.org/abs/2411.04997v6" in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_card_of_a_model_that_was_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path))
    save_model(converted_folder(catalogue_models()[NAME]))
    shown = answer("show", NAME)
    assert f"folder  {tmp_path / 'models' / NAME}" in shown
    assert "timm test_vit, 160x160 pixels" in shown
    assert "not on this machine" not in shown


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "nano",
            [
                "nano (e6f9df36f2331e81)",
                "timm tf_efficientnet_lite2, 352x352 pixels",
                "6M to index images, 207M to query",
                "licence  research and educational use (training data); Gemma Terms of Use",
                "training data  Flickr8k train split",
                "Metrics on the dev split",
            ],
        ),
        (
            "open_clip:ViT-SO400M-14-SigLIP2/webli",
            ["1152 dimensions", "224x224 pixels", "64 tokens", "licence  apache-2.0", "SigLIP2 So400m/14-224"],
        ),
        (
            "open_clip:RN50/openai",
            ["1024 dimensions", "open_clip RN50, 224x224 pixels", "licence  unknown", "unknown to index images"],
        ),
    ],
)
def test_cards_of_models_that_are_used_as_they_are(name: str, parts: list[str]) -> None:
    shown = answer("show", name)
    for part in parts:
        assert part in shown


def test_the_card_of_a_folder(tiny_model: Path) -> None:
    shown = answer("show", f"dir:{tiny_model}")
    towers: tuple[Literal["vision", "text"], ...] = ("vision", "text")
    modules = [build_module(resolve(f"dir:{tiny_model}"), tower) for tower in towers]
    vision, text = (sum(parameter.numel() for parameter in module.parameters()) for module in modules)
    for part in (
        f"parameters  {vision / 1e3:.0f}k to index images, {text / 1e3:.0f}k to query",
        "16 dimensions",
        "timm test_vit",
        "weights in the model folder",
        "dir:llm",
        "training data  unknown",
    ):
        assert part in shown


def test_an_unknown_name_is_one_sentence_with_near_names(run_cli: RunCli) -> None:
    done = run_cli("models", "pull", "llm2clip-openai-L-336")
    assert (done.returncode, done.stdout) == (1, "")
    assert "hint: Did you mean llm2clip-openai-l-14-336" in done.stderr
    assert is_one_error(done.stderr)


def test_an_offline_machine_cannot_pull(run_command: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run_command("models", "pull", NAME)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Run 'llm2clip-search models pull {NAME}' on a machine that reaches the hub" in done.stderr
    assert str(tmp_path / "hub") in done.stderr
