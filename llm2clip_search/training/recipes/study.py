"""Studies as TOML files: questions, and the variants of a recipe that are to answer each."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from llm2clip_search.errors import InputError, first_line
from llm2clip_search.training.recipes.toml_file import TomlFile
from llm2clip_search.training.runtime.allowed_values import require_values


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a recipe is changed."""

    name: str
    """Names it in the results."""
    settings: tuple[str, ...] = ()
    """Values that replace some of the recipe's, such as ``clip.loop.steps=200``."""
    joint: bool = False
    """Train the LLM in every step too, by LoRA, and not on stored embeddings of captions."""
    start: str = ""
    """Model that stage 2 begins from, with its own LLM; empty for published weights."""
    seeds: int = 0
    """Train it with at most so many seeds; 0 for as many as the others."""

    def __post_init__(self) -> None:
        require_values(self, {"seeds": (self.seeds >= 0, "0 or more")})
        if self.joint and self.start:
            raise ValueError("joint training begins from published weights, so that it has no start")


@dataclass(frozen=True, kw_only=True)
class Question:
    """Variants that are compared with each other."""

    name: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Questions about a recipe."""

    questions: tuple[Question, ...]


def read_study(path: Path | None = None) -> Study:
    """Read a study.

    Args:
        path: a TOML file; None for the ablations of LLM2CLIP, ``ablations.toml`` of this package.

    Raises:
        InputError: the file cannot be read or is not TOML, or a field is unknown, missing or of a value that it cannot
            have; the message has the line.
    """
    if path is None:
        text = (files("llm2clip_search.training.recipes") / "ablations.toml").read_text(encoding="utf-8")
        return TomlFile(text, "ablations.toml").build(Study)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The study {path} cannot be read: {first_line(error)}.") from error
    return TomlFile(text, str(path)).build(Study)
