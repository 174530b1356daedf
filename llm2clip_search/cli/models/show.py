"""``llm2clip-search models show``: a model's card."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from llm2clip_search.cli import console
from llm2clip_search.cli.sizes import gigabytes, parameters

if TYPE_CHECKING:
    from llm2clip_search.encoders.catalogue import CatalogueModel
    from llm2clip_search.encoders.config import TextConfig, VisionConfig
    from llm2clip_search.encoders.model import Model

Line = tuple[str, str]
_UNKNOWN = "unknown"


def show_model(
    name: Annotated[str, typer.Argument(help="Name of the model, as for --model.", show_default=False)],
) -> None:
    """Show a model's card: towers, parameters, licence, training data, and published recalls with their source.

    Nothing is fetched.

    [dim]llm2clip-search models show llm2clip-openai-l-14-336[/dim]
    """
    from llm2clip_search.encoders.catalogue import catalogue_models
    from llm2clip_search.encoders.registry import is_at_hand, resolve

    entry = catalogue_models().get(name) or catalogue_models().get(name.lower())
    model = resolve(name) if entry is None or is_at_hand(name) else None
    with console.results():
        for label, value in _lines(entry, model):
            console.out.print(f"[bold]{label:>13}[/bold]  {escape(value)}")
        if entry is not None and entry.recalls:
            _print_recalls(entry)
        card = model.folder / "README.md" if model and model.folder else None
        if card is not None and card.is_file():
            from rich.markdown import Markdown

            console.out.print()
            console.out.print(Markdown(card.read_text(encoding="utf-8")))


def _lines(entry: "CatalogueModel | None", model: "Model | None") -> Iterator[Line]:
    yield from _header(entry, model)
    if model is not None:
        yield from _towers(model)
    elif entry is not None:
        yield "pixels", f"{entry.image_size}x{entry.image_size}"
        yield "tokens", f"{entry.max_tokens}, bidirectional LLM, mean over the caption"
    if entry is not None:
        vision, text = parameters(entry.vision_parameters), parameters(entry.text_parameters)
        yield "parameters", f"{vision} to index images, {text} to query"
        if entry.llm is not None:
            yield "LLM", f"{entry.llm.repo}, hidden width {entry.llm.hidden}; the adaptor fits no other width"
            yield "LLM's licence", (entry.llm.licence or _UNKNOWN) + (", gated" if entry.llm.gated else "")
        yield "languages", entry.languages or _UNKNOWN
    elif model is not None:
        yield "parameters", f"{_tower_size(model, 'vision')} to index images, {_tower_size(model, 'text')} to query"
    config = model.config if model else None
    stated = config.licence if config and config.licence != _UNKNOWN else None
    if config is not None and config.calibration is not None:
        yield "calibration", f"fitted on {', '.join(config.calibration.fitted_on) or _UNKNOWN}"
    yield "licence", stated or (entry.licence if entry else None) or _UNKNOWN
    data = (config.training_data if config else ()) or (entry.training_data if entry else ()) or (_UNKNOWN,)
    for number, line in enumerate(data):
        yield "" if number else "training data", line
    for note in entry.notes if entry else ():
        yield "note", note


def _header(entry: "CatalogueModel | None", model: "Model | None") -> Iterator[Line]:
    from llm2clip_search.encoders.catalogue import citations
    from llm2clip_search.encoders.checkpoints.pull import converted_folder

    if model is not None:
        yield "model", f"{model.config.name} ({_fingerprint(model)})"
    elif entry is not None:
        size = gigabytes(entry.download_bytes)
        yield "model", f"{entry.name} (not on this machine; models pull {entry.name} fetches about {size})"
    if entry is not None:
        yield "description", entry.what
        if entry.repo is not None:
            pinned = f"@{entry.revision}" if entry.revision else ", its newest commit" if entry.layout else ""
            yield "weights", f"hf:{entry.repo}{pinned}"
        if entry.layout is not None and model is not None:
            yield "folder", str(converted_folder(entry))
        citation = citations()[entry.source]
        yield "source", f"{citation.title}, {citation.url}"
    yield "space", f"{model.config.dim if model else entry.dim if entry else 0} dimensions"


def _fingerprint(model: "Model") -> str:
    from llm2clip_search.encoders.sources import pin_is_known

    if all(map(pin_is_known, model.base_weights)):
        return model.identity.fingerprint
    return "its fingerprint is unknown until its weights are fetched"


def _tower_size(model: "Model", tower: Literal["vision", "text"]) -> str:
    """Parameter count of a tower whose base weights are here; that of a pickle or GGUF file is an upper bound."""
    from llm2clip_search.encoders.placement import tower_parameters
    from llm2clip_search.encoders.sources import is_here

    source = (model.config.vision if tower == "vision" else model.config.text).weights
    count = tower_parameters(model, tower) if source is None or is_here(source) else None
    if count is None:
        return _UNKNOWN
    return ("at most " if source is not None and source.startswith("pypi:") else "") + parameters(count)


def _towers(model: "Model") -> Iterator[Line]:
    vision, text = model.config.vision, model.config.text
    size = vision.preprocess
    yield "vision", f"{_tower(vision)}, {size.height}x{size.width} pixels"
    yield "", vision.weights or "weights in the model folder"
    yield "text", f"{_tower(text)}, {text.attention} attention, {text.pooling} pooling, {text.max_tokens} tokens"
    yield "", text.weights or "weights in the model folder"


def _tower(config: "VisionConfig | TextConfig") -> str:
    return f"{config.library} {config.architecture}".strip()


def _print_recalls(entry: "CatalogueModel") -> None:
    from llm2clip_search.encoders.catalogue import citations

    names = list(dict.fromkeys(name for reported in entry.recalls for name in reported.recalls))
    table = console.table(
        "as published",
        *names,
        left=("as published",),
        title="Published R@1, image to text / text to image, percent",
    )
    for reported in entry.recalls:
        cells = (reported.recalls.get(name) for name in names)
        table.add_row(reported.row, *(f"{cell[0]:.1f} / {cell[1]:.1f}" if cell else "-" for cell in cells))
    console.out.print()
    console.out.print(table)
    for key in dict.fromkeys(reported.source for reported in entry.recalls):
        citation = citations()[key]
        note = f" {citation.note}" if citation.note and entry.layout in ("openai", "eva02") else ""
        console.out.print(f"{citation.title}, {citation.url}.{note}", markup=False)
