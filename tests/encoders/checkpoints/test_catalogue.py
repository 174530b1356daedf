"""The catalogue's facts compared with open_clip's configurations, built towers, and the paper's figures."""

from pathlib import Path

import pytest
import torch

from llm2clip_search.benchmarks.paper import all_figures
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.catalogue import (
    CatalogueModel,
    catalogue_models,
    citations,
    convertible_model,
    model_of_repository,
    similar_names,
)
from llm2clip_search.encoders.checkpoints.llm_source import LLMS
from llm2clip_search.encoders.checkpoints.pull import converted_folder, is_pulled
from llm2clip_search.encoders.config import AdaptorConfig
from llm2clip_search.encoders.memory_fit import DeviceMemory, first_fitting, machine_memory, model_fit
from llm2clip_search.encoders.registry import is_at_hand, resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.towers import build_module
from llm2clip_search.errors import ModelError
from tests.support.models import save_model

MODELS = catalogue_models()
CONVERTED = [model for model in MODELS.values() if model.layout]
OPEN_CLIP = [model for model in MODELS.values() if model.name.startswith("open_clip:")]


def names(model: CatalogueModel) -> str:
    return model.name


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def llama(hidden: int, layers: int, inner: int) -> torch.nn.Module:
    ensure_torchvision()
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    model: torch.nn.Module = transformers.LlamaModel(config)
    return model


def test_names_are_those_of_the_hub_in_lower_case() -> None:
    assert len(CONVERTED) == 7
    for model in CONVERTED:
        assert model.repo is not None
        assert model.name == model.repo.removeprefix("microsoft/").lower()
        assert model_of_repository(model.repo.lower()) is model
        assert convertible_model(model.name.upper()) is model
    assert convertible_model("nano") is None
    assert model_of_repository("openai/clip-vit-large-patch14") is None


@pytest.mark.parametrize("model", OPEN_CLIP, ids=names)
def test_facts_about_open_clip_models_are_open_clips(model: CatalogueModel) -> None:
    ensure_torchvision()
    import open_clip

    architecture, tag = model.name.removeprefix("open_clip:").split("/")
    assert (architecture, tag) in open_clip.list_pretrained()
    config, pretrained = (
        open_clip.get_model_config(architecture),
        open_clip.pretrained.get_pretrained_cfg(architecture, tag),
    )
    assert model.image_size == config["vision_cfg"]["image_size"]
    assert model.max_tokens == config["text_cfg"].get("context_length", 77)
    assert model.dim == config["embed_dim"]
    assert model.repo == pretrained["hf_hub"].rstrip("/")


def test_an_open_clip_models_parameters_are_those_of_its_towers() -> None:
    ensure_torchvision()
    import open_clip

    built = open_clip.create_model("ViT-B-32-quickgelu")
    entry = MODELS["open_clip:ViT-B-32-quickgelu/openai"]
    assert entry.vision_parameters == count(built.visual)
    assert entry.text_parameters == count(built) - count(built.visual)


def test_nanos_parameters_are_those_of_its_vision_tower() -> None:
    model = resolve("nano")
    assert MODELS["nano"].vision_parameters == count(build_module(model, "vision"))
    assert (MODELS["nano"].dim, MODELS["nano"].max_tokens) == (model.config.dim, model.config.text.max_tokens)


@pytest.mark.parametrize(
    ("name", "patch", "image", "width"),
    [
        ("llm2clip-openai-b-16", 16, 224, 768),
        ("llm2clip-openai-l-14-224", 14, 224, 1024),
        ("llm2clip-openai-l-14-336", 14, 336, 1024),
    ],
)
def test_openai_towers_are_as_large_as_their_files(name: str, patch: int, image: int, width: int) -> None:
    """Tower and projection are built on the meta device; with adaptor and scale they make up the file in float32."""
    ensure_torchvision()
    import transformers

    with torch.device("meta"):
        config = transformers.CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=24 if width == 1024 else 12,
            num_attention_heads=width // 64,
            patch_size=patch,
            image_size=image,
            projection_dim=1280,
        )
        tower = count(transformers.CLIPVisionModelWithProjection(config))
        adaptor = count(Adaptor(4096, 1280, AdaptorConfig()))
    model = MODELS[name]
    assert model.vision_parameters == tower
    assert model.bytes == 4 * (tower + adaptor + 1)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("llm2clip-eva02-b-16", "eva02_base_patch16_clip_224"),
        ("llm2clip-eva02-l-14-336", "eva02_large_patch14_clip_336"),
        ("llm2clip-llama3.2-1b-eva02-l-14-336", "eva02_large_patch14_clip_336"),
        ("llm2clip-llama3.1-8b-siglip2-so400m-patch14-224", "vit_so400m_patch14_siglip_224"),
    ],
)
def test_other_towers_have_the_parameters_of_timms(name: str, architecture: str) -> None:
    ensure_torchvision()
    import timm

    head = 1280 if architecture.startswith("eva02") else 0
    with torch.device("meta"):
        assert MODELS[name].vision_parameters == count(timm.create_model(architecture, num_classes=head))


@pytest.mark.parametrize("model", CONVERTED, ids=names)
def test_a_checkpoint_is_paired_with_the_llm_of_its_adaptor(model: CatalogueModel) -> None:
    """The 8B and the 1B model differ in width, so the adaptor of one does not fit the other."""
    assert model.llm is not None
    assert model.layout is not None
    # The published SigLIP 2 model is the one whose text tower includes the LLM.
    assert LLMS[model.layout != "siglip2", model.llm.hidden] == f"hf:{model.llm.repo}"
    small = "1b" in model.name
    assert model.llm.hidden == (2048 if small else 4096)
    assert ("1B" in model.llm.repo) == small
    with torch.device("meta"):
        llm = count(llama(2048, 16, 8192) if small else llama(4096, 32, 14336))
        adaptor = count(Adaptor(model.llm.hidden, model.dim, AdaptorConfig()))
    assert model.llm.parameters == llm
    assert model.text_parameters == llm + adaptor
    assert model.llm.bytes < model.download_bytes < 25e9


def test_the_1b_checkpoints_file_holds_tower_and_adaptor_in_half_precision() -> None:
    """The file has 749,702,998 bytes; a pickle is slightly larger than its tensors."""
    model = MODELS["llm2clip-llama3.2-1b-eva02-l-14-336"]
    assert model.llm is not None
    assert model.bytes is not None
    tensors = 2 * (model.vision_parameters + model.text_parameters - model.llm.parameters)
    assert tensors < model.bytes < 1.001 * tensors


def test_recalls_are_those_of_the_papers_table() -> None:
    """The catalogue's copy of a figure and that of the benchmarks agree."""
    printed = {(figure.source, figure.model, figure.dataset): figure.recalls for figure in all_figures()}
    seen = 0
    for model in MODELS.values():
        for row in model.recalls:
            assert row.source in citations()
            for dataset, (to_text, to_image) in row.recalls.items():
                found = printed[row.source, row.row, dataset]
                assert found["text_retrieval_recall@1"] == to_text
                assert found["image_retrieval_recall@1"] == to_image
                seen += 1
    assert seen >= 75


def test_what_users_measured_is_within_a_point_of_the_row_that_is_the_files() -> None:
    """Urban1k of the EVA02-L/14-336 file: 96.0 / 97.5 in the note; the 60M row is nearest, and within a point."""
    model = MODELS["llm2clip-eva02-l-14-336"]
    (note,) = (note for note in model.notes if "Urban1k" in note)
    assert "96.0 / 97.5" in note
    off = {}
    for row in model.recalls:
        to_text, to_image = row.recalls["urban1k"]
        off[row.row] = max(abs(to_text - 96.0), abs(to_image - 97.5))
    assert min(off, key=off.__getitem__).startswith("LLM2CLIP-60M")
    assert min(off.values()) < 1.0


def test_every_entry_names_its_source() -> None:
    assert {model.source for model in MODELS.values()} <= citations().keys()


def test_similar_names_are_suggested() -> None:
    assert similar_names("LLM2CLIP-OpenAI-L14-336")[0] == "llm2clip-openai-l-14-336"
    with pytest.raises(ModelError, match=r"^There is no model 'llm2clip-eva02-l-336'\.$") as caught:
        resolve("llm2clip-eva02-l-336")
    assert caught.value.hint.startswith("Did you mean llm2clip-eva02-l-14-336")
    with pytest.raises(ModelError, match=r"^There is no model 'qqqq'\.$") as caught:
        resolve("qqqq")
    assert caught.value.hint.endswith("dir:PATH.")


def test_a_checkpoint_named_by_repository_gets_its_name_as_a_hint() -> None:
    with pytest.raises(ModelError, match="checkpoint in LLM2CLIP's own layout, which must be converted") as caught:
        resolve("hf:microsoft/LLM2CLIP-Openai-L-14-336@main")
    assert caught.value.hint == "Name it llm2clip-openai-l-14-336, and it is converted."


def test_a_pulled_model_is_found_in_the_cache_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path))
    published = MODELS["llm2clip-eva02-b-16"]
    assert not is_at_hand("LLM2CLIP-EVA02-B-16")
    save_model(converted_folder(published))
    assert is_pulled(published)
    assert is_at_hand("LLM2CLIP-EVA02-B-16")
    model = resolve("LLM2CLIP-EVA02-B-16")
    assert model.reference == "llm2clip-eva02-b-16"
    assert model.folder == tmp_path / "models" / "llm2clip-eva02-b-16"


def test_images_can_be_indexed_where_the_text_tower_does_not_fit() -> None:
    """Each tower is considered separately, with half as many bytes per parameter on a GPU."""
    model = MODELS["llm2clip-openai-l-14-336"]
    small, card = DeviceMemory(device="cpu", bytes=16 * 10**9, bytes_per_parameter=4.0), 24 * 10**9
    gpu = DeviceMemory(device="cuda", bytes=card, bytes_per_parameter=2.0)
    assert model_fit(model, (small,)) == "images"
    assert model_fit(model, (gpu, small)) == "yes"
    assert first_fitting(model.text_parameters, (gpu, small)) is gpu
    assert model_fit(model, (DeviceMemory(device="cpu", bytes=10**9, bytes_per_parameter=4.0),)) == "no"
    assert gpu.required(model.text_parameters) == 2 * model.text_parameters
    assert not DeviceMemory(device="cuda", bytes=gpu.required(10**9), bytes_per_parameter=2.0).fits(10**9)


def test_this_machine_has_memory() -> None:
    assert machine_memory()[-1].bytes > 1e9
