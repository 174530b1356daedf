"""Key names: other spellings are accepted and reported, every key is accounted for, and names convert back."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2clip_search.encoders.checkpoints.adaptor_keys import adaptor_to_checkpoint, container_of, convert_adaptor
from llm2clip_search.encoders.checkpoints.convert import convert_tensors
from llm2clip_search.encoders.checkpoints.layouts import LayoutName, PublishedCheckpoint, read_checkpoint
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import (
    LAYOUTS,
    Tensors,
    adaptor_tensors,
    eva02_tensors,
    openai_tensors,
    renamed,
    siglip2_tensors,
    without,
)

OPENAI_CONFIG = {"model_type": "clip", "vision_config": {"num_attention_heads": 2}}


def checkpoint(tensors: Tensors, config: dict[str, Any] | None = None) -> PublishedCheckpoint:
    return PublishedCheckpoint(tensors=tensors, config=config or {})


@pytest.mark.parametrize(
    ("layout", "changes", "note"),
    [
        ("openai", [(".fn.3.", ".fn.2.")], r"has keys other than fn\.0, fn\.3 and ln: 8 \(0\.fn\.2\.bias"),
        ("openai", [("text_adapter.adaptor", "text_adaptor.adaptor")], r"start with text_adaptor\.adaptor;"),
        ("openai", [("text_adapter.adaptor", "text_adapter")], "start with text_adapter;"),
        ("openai", [("text_adapter.adaptor", "text_adapter.text_adaptor")], r"start with text_adapter\.text_adaptor;"),
        ("eva02", [("text.text_adaptor", "text.text_adapter")], r"start with text\.text_adapter;"),
        ("eva02", [("text.text_adaptor", "text_adaptor")], "start with text_adaptor;"),
        ("eva02", [(".ln.", ".norm.")], r"has keys other than .*: 8 \(0\.norm\.bias"),
        ("siglip2", [("text.text_proj.text_adaptor", "text_proj.adaptor")], r"start with text_proj\.adaptor;"),
        ("siglip2", [(".fn.3.", ".mlp.2."), (".fn.0.", ".mlp.0.")], r"has keys other than .*: 16 \(0\.mlp\.0\.bias"),
    ],
)
def test_other_spellings_are_read_and_reported(layout: LayoutName, changes: list[tuple[str, str]], note: str) -> None:
    plain = convert_tensors(checkpoint(LAYOUTS[layout](), OPENAI_CONFIG))
    found = convert_tensors(checkpoint(renamed(LAYOUTS[layout](), *changes), OPENAI_CONFIG))
    assert plain.notes == ()
    assert len(found.notes) == 1
    assert re.search(note, found.notes[0]), found.notes
    assert found.tensors().keys() == plain.tensors().keys()
    assert all(torch.equal(found.tensors()[name], tensor) for name, tensor in plain.tensors().items())
    assert found.adaptor.config == plain.adaptor.config


@pytest.mark.parametrize("wrapper", [None, "state_dict", "module", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_training_loops_are_removed(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in eva02_tensors().items()}
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").tensors.keys() == eva02_tensors().keys()


def test_a_frozen_llm_in_a_training_state_is_left_out_with_a_note(tmp_path: Path) -> None:
    tensors = siglip2_tensors() | {"text.text.model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2)}
    found = convert_tensors(checkpoint(tensors))
    assert found.tensors().keys() == convert_tensors(checkpoint(siglip2_tensors())).tensors().keys()
    (note,) = found.notes
    assert note.startswith(
        "The LLM's own tensors are not copied, because its source holds them: 1 (text.text.model.layers.0."
    )


ADAPTOR = "text_adapter.adaptor"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {f"surprise.{n}": torch.ones(1) for n in range(7)},
            r"unexpected keys, 7 \(surprise\.0, .*\.\.\.\)",
        ),
        (lambda t: without(t, "logit_scale"), r"missing 1 key \(logit_scale\)"),
        (lambda t: without(t, "visual_projection.weight"), r"lacks visual_projection\.weight"),
        (
            lambda t: without(t, "vision_model.post_layernorm.bias") | {"vision_model.post_layernorm.b": torch.ones(1)},
            r"missing 1 \(post_layernorm\.bias\); unexpected 1 \(post_layernorm\.b\)",
        ),
        (
            lambda t: {n: x for n, x in t.items() if ".layers.1." not in n or "mlp" in n},
            r"missing 12 \(encoder\.layers\.1\.layer_norm1\.bias, .*, \.\.\.\)",
        ),
        (lambda t: t | {"visual_projection.weight": torch.ones(24, 15)}, "has 15 input dimensions, but .* has 16"),
        (
            lambda t: t | {"visual_projection.weight": torch.ones(23, 16)},
            "has 23 output dimensions, but .* has 24",
        ),
        (lambda t: {n: x for n, x in t.items() if "adaptor" not in n}, "has no adaptor: no key starts with text_adap"),
        (lambda t: t | {f"{ADAPTOR}.4.gain": torch.ones(1)}, r"unexpected 1 \(4\.gain\)"),
        (lambda t: without(t, f"{ADAPTOR}.2.fn.3.bias"), r"missing 1 \(blocks\.2\.contract\.bias\)"),
        (lambda t: without(t, f"{ADAPTOR}.5.weight", f"{ADAPTOR}.5.bias"), r"lacks norm\.weight"),
        (
            lambda t: t | {f"{ADAPTOR}.0.fn.2.weight": torch.ones(1)},
            r"Two keys of the adaptor both mean 0\.fn\.3\.weight",
        ),
        (lambda t: t | adaptor_tensors("text.text_adaptor", 32, 24), "has 2 adaptors: text.text_adaptor, text_adap"),
        (lambda t: t | {f"{ADAPTOR}.0.fn.0.weight": torch.ones(63, 32)}, "width 63 is not a multiple of its width 32"),
        (
            lambda t: t | {f"{ADAPTOR}.1.ln.weight": torch.ones(31)},
            r"blocks\.1\.norm\.weight of .* is \[31\], but \[32\]",
        ),
        (
            lambda t: renamed(t, ("vision_model.", "a_tower.")),
            r"does not have an LLM2CLIP layout: .*7 \(a_tower\.embeddings,",
        ),
    ],
)
def test_keys_and_shapes_that_do_not_fit_are_listed(change: Callable[[Tensors], Tensors], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        convert_tensors(checkpoint(change(openai_tensors()), OPENAI_CONFIG))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_adaptors_published_names_can_be_restored(layout: LayoutName) -> None:
    tensors = {name: t for name, t in LAYOUTS[layout]().items() if "adaptor" in name}
    adaptor = convert_adaptor(tensors, layout)
    back = adaptor_to_checkpoint(adaptor.tensors, container_of(layout, normalises=adaptor.config.normalises))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("width", "blocks", "patch", "side", "parameters"),
    [(1024, 24, 14, 336, 578_587_905), (1024, 24, 14, 224, 578_260_225), (768, 12, 16, 224, 360_552_193)],
)
def test_the_published_openai_models_have_their_published_sizes(
    width: int, blocks: int, patch: int, side: int, parameters: int
) -> None:
    """All three at full size, without memory; the hub states 579M, 578M and 361M parameters."""
    ensure_torchvision()
    import transformers

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": blocks}
    sizes |= {"num_attention_heads": width // 64, "patch_size": patch}
    with torch.device("meta"):
        model: Any = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, image_size=side))
    tower = getattr(model, "vision_model", model).state_dict()
    tensors = {f"vision_model.{name}": tensor for name, tensor in tower.items()}
    tensors |= {"visual_projection.weight": empty(1280, width), "logit_scale": empty()}
    tensors |= adaptor_tensors(ADAPTOR, 4096, 1280, empty)
    found = convert_tensors(checkpoint(tensors, {"model_type": "clip", "projection_dim": 1280, "vision_config": sizes}))
    assert sum(tensor.numel() for tensor in found.tensors().values()) == parameters
    assert found.vision.config.options["image_size"] == side
    assert (found.adaptor.hidden, found.adaptor.dim, found.vision.dim) == (4096, 1280, 1280)
