"""A recipe for own data: a model to begin from, sources of images with captions, and how stage 2 trains on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.errors import InputError, Llm2ClipError
from llm2clip_search.training.data.caption_store import StoredDtype
from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnData
from llm2clip_search.training.recipes.recipe_file import refuse_missing_blocks
from llm2clip_search.training.recipes.registry import recipe_text
from llm2clip_search.training.recipes.toml_file import TomlFile
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.llm_folder import read_llm
from llm2clip_search.training.tasks.start_model import Start, fetch_start, start_config


@dataclass(frozen=True, kw_only=True)
class EmbedRecipe:
    """How captions are embedded between the stages."""

    dtype: StoredDtype = "float16"
    """Precision of the stored embeddings; float32 takes twice the space."""


@dataclass(frozen=True, kw_only=True)
class OwnRecipe:
    """Training on own data from a model that exists."""

    name: str
    """Name of the new model."""
    start: str
    """The model to begin from, as ``--model`` names it: nano, another name of the catalogue, ``hf:OWNER/REPO`` or
    ``dir:PATH``. Of a CLIP or SigLIP model (``open_clip:ARCH/TAG`` or ``hf:``), the vision tower is taken."""
    llm: str = "nano"
    """The model whose LLM reads captions, if ``start`` has none; a new adaptor is trained."""
    licence: str = ""
    """Licence of the new model; empty for that of the start model, and a note on the data's terms."""
    terms: str = ""
    """Terms of the training data, for the model card."""
    data: OwnData
    """Sources of images with captions."""
    evaluation: tuple[EvaluationSource, ...] = ()
    """Sets that show what the model forgets."""
    captions: CaptionLLMRecipe | None = None
    """Stage 1, which trains the LLM of the model on the captions first; None to take it as it is."""
    embed: EmbedRecipe = field(default_factory=EmbedRecipe)
    """How captions are embedded."""
    clip: ClipRecipe
    """Stage 2; its model is that of ``start``."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name is empty, but a model needs one")
        names = ["train", "val", *(each.name for each in self.evaluation)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"evaluation has the name {twice[0]!r}, which is that of another set")


def is_own_recipe(name: str) -> bool:
    """Whether a recipe file names a model to begin from; errors as `recipe_text`."""
    return name.endswith(".toml") and "start" in TomlFile(recipe_text(name), name).values


def read_own_recipe(name: str, settings: Sequence[str] = ()) -> OwnRecipe:
    """Read a recipe file that names a model to begin from, which is fetched if it is not on this machine.

    Args:
        name: path of the file.
        settings: values that replace some of the file's, such as ``clip.loop.steps=200``.

    Raises:
        InputError: the file cannot be read, or a field is unknown, missing or of a value that it cannot have.
    """
    file = TomlFile(recipe_text(name), name, settings)
    _require_sources(file, folder_of(name))
    name_of_start, title = file.values.get("start"), file.values.get("name")
    try:
        start = fetch_start(str(name_of_start), str(file.values.get("llm", OwnRecipe.llm)))
    except Llm2ClipError as error:
        raise InputError(f"{file.place(('start',))}: {str(error).rstrip('.')}.", hint=error.hint) from error
    config = start_config(start, str(title), licence=str(file.values.get("licence", "")), training_data=())
    return file.build(OwnRecipe, given={"captions": _stage1(file, start), "clip": _stage2(file, config, start)})


def _require_sources(file: TomlFile, folder: Path) -> None:
    """Refuse paths of sources and of their captions that do not exist; patterns and addresses are looked at later."""
    data: Any = file.values.get("data")
    lists: dict[tuple[str, ...], Any] = {("evaluation",): file.values.get("evaluation")}
    lists |= {("data", kind): data.get(kind) for kind in ("train", "val")} if isinstance(data, dict) else {}
    for keys, sources in lists.items():
        for number, source in enumerate(sources if isinstance(sources, list) else ()):
            for name in ("source", "captions") if isinstance(source, dict) else ():
                path = source.get(name)
                is_plain = isinstance(path, str) and "://" not in path and not set(path) & set("*?[]{}")
                if is_plain and not (folder / Path(path).expanduser()).exists():
                    raise file.refuse((*keys, number, name), f"names {path}, which does not exist")


def _stage1(file: TomlFile, start: Start) -> CaptionLLMRecipe | None:
    if "captions" not in file.values:
        return None
    stage = file.build(CaptionLLMRecipe, ("captions",), given={"text": read_llm(start.llm_folder).text})
    del file.values["captions"]
    return stage


def _stage2(file: TomlFile, model: ModelConfig, start: Start) -> ClipRecipe:
    stage = file.build(ClipRecipe, ("clip",), given={"model": model})
    if start.is_dual and stage.anchor is not None:
        why = f"holds an adaptor close to what it was, but that of {start.model.reference} with an LLM is new; "
        raise file.refuse(("clip", "anchor"), f"{why}clip.keep holds the vision tower")
    if start.is_dual and stage.hard_negatives is not None:
        why = f"are what a model confuses, but the adaptor of {start.model.reference} with an LLM is new"
        raise file.refuse(("clip", "hard_negatives"), why)
    if start.is_dual and stage.loop.mix:
        raise file.refuse(("clip", "loop", "mix"), f"is {stage.loop.mix:g}, but a new adaptor has no weights to keep")
    refuse_missing_blocks(file, stage)
    del file.values["clip"]
    return stage


def folder_of(name: str) -> Path:
    """The folder that paths in a recipe file are relative to."""
    return Path(name).absolute().parent
