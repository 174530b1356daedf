"""Write the generated parts of the documentation from the code that they describe.

    python docs/generate.py            # rewrite what has changed
    python docs/generate.py --check    # change nothing; exit with 1 if a file is stale

``docs/cli.md`` is generated as a whole. In every other page, the text between ``<!-- generated: NAME -->`` and
``<!-- end of NAME -->`` is replaced by the block of that name.
"""

import argparse
import ast
import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer

from llm2clip_search.cli.app import app
from llm2clip_search.engine.columns import FIXED
from llm2clip_search.engine.results import NOT_METADATA, Hit
from llm2clip_search.store import METADATA_SCHEMA

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROGRAM = "llm2clip-search"
WIDTH = 100
"""Columns of help texts."""
BLOCK = re.compile(r"(?P<start><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)", re.DOTALL)

MEANINGS = {
    "id": "Identifies one vector and is never reused.",
    "path": "Path of the image file, relative to the parent of the index folder if it lies below it; or a URI.",
    "content_hash": "BLAKE2b-128 hash of the file, in hexadecimal.",
    "size": "File size in bytes.",
    "mtime_ns": "Modification time in nanoseconds since 1970.",
    "width": "Width in pixels, after the EXIF rotation.",
    "height": "Height in pixels, after the EXIF rotation.",
    "format": "Pillow's name of the file format: `JPEG`, `PNG`, ...",
    "taken": "EXIF capture time, in the camera's local time.",
    "camera": "Camera make and model from EXIF.",
    "latitude": "EXIF latitude in degrees, north positive.",
    "longitude": "EXIF longitude in degrees, east positive.",
    "corpus": "Source that the image came from, as in `sources` of the manifest; null in rows of schema 1.",
    "version": "Mark by which the corpus recognises an unchanged item; null if it has none.",
    "damage": "What is wrong with a file whose picture could be read nevertheless; null if it is sound.",
    "modality": "`image` or `text`; null in rows of schemas before 5, which are images.",
    "text": "The passage itself, for texts.",
    "caption": "What the source, a sidecar file or the image file says of it.",
    "rating": "Stars, 0 to 5; -1 for rejected.",
    "keywords": "Keywords of a sidecar file, the image file or the source.",
    "described": "Mark by which the corpus recognises unchanged columns that it brought along; null if it has none.",
}
"""Every metadata column in one sentence. A column without an entry fails with a `KeyError`."""
ABSOLUTE = "Absolute path of the image file, or the URI of an item that is not a file of this machine."
"""What ``path`` means in filters and results."""
TYPES: dict[Any, tuple[str, str]] = {
    pa.int64(): ("BIGINT", "integer"),
    pa.int32(): ("INTEGER", "integer"),
    pa.float64(): ("DOUBLE", "number"),
    pa.string(): ("VARCHAR", "string"),
    pa.timestamp("s"): ("TIMESTAMP", "string, ISO 8601"),
    pa.list_(pa.string()): ("VARCHAR[]", "array of strings"),
}
"""Names of an Arrow type in SQL and in JSON."""


def commands() -> Iterator[tuple[str, str]]:
    """Every command's full name and its ``--help`` text, parents first."""
    yield from _walk(typer.main.get_command(app), PROGRAM, None)


def _walk(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    command.rich_markup_mode = None  # the plain formatter has no boxes, colours or terminal width
    command.help = plain_help(command.help or "")
    context = command.context_class(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )
    children = getattr(command, "commands", {})
    for child in children.values():
        child.short_help = " ".join(plain_help(child.help or "").split("\n\n")[0].split())  # whole, not cut at "..."
    yield context.command_path, command.get_help(context)
    for child_name, child in children.items():
        yield from _walk(child, child_name, context)


def plain_help(text: str) -> str:
    """A docstring without terminal markup; paragraphs of example commands keep their line breaks."""
    paragraphs = [
        "\b\n" + paragraph.replace("[dim]", "").replace("[/dim]", "") if "[dim]" in paragraph else paragraph
        for paragraph in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def cli_page() -> str:
    """The page with the help text of every command."""
    lines = [
        "# Command line",
        "",
        "This page is generated from the `--help` text of every command. Results are written to stdout and everything",
        "else to stderr. The exit code is 0 on success, 1 on an error and 2 for wrong arguments.",
    ]
    for path, text in commands():
        title = path if path == PROGRAM else path.removeprefix(f"{PROGRAM} ")
        lines += ["", f"## {title}", "", "```text", *(line.rstrip() for line in text.splitlines()), "```"]
    return "\n".join(lines) + "\n"


def metadata_columns() -> str:
    """Columns of a shard's ``metadata.parquet``."""
    rows = [
        (f"`{field.name}`", f"{field.type}" + ("" if field.nullable else ", required"), MEANINGS[field.name])
        for field in METADATA_SCHEMA
    ]
    return table(("column", "Arrow type", "meaning"), rows)


def filter_columns() -> str:
    """Columns that ``--where`` accepts."""
    rows = []
    for name in FIXED:
        meaning = ABSOLUTE if name == "path" else MEANINGS[name]
        rows.append((f"`{name}`", TYPES[METADATA_SCHEMA.field(name).type][0], meaning))
    return table(("column", "SQL type", "meaning"), [*rows, ("`mtime`", "TIMESTAMP", "Modification time, UTC.")])


def hit_keys() -> str:
    """Keys of the JSON object of a hit, in their order."""
    own = {
        "rank": ("integer", "Position in the whole ranking, from 1; pages continue the count."),
        "score": ("number", "Cosine similarity, -1 to 1."),
        "path": ("string", ABSOLUTE),
        "part": ("string or null", "Which part of its file it is, such as `page=3`; null for a whole file."),
        "exists": ("boolean or null", "Whether the file is there now; null if it is not a file of this machine."),
    }
    metadata = {name: None for name in METADATA_SCHEMA.names if name not in NOT_METADATA}
    rows = []
    for key in Hit(rank=1, id=0, score=1.0, uri="/", metadata=metadata).to_dict():
        if key in own:
            rows.append((f"`{key}`", *own[key]))
        else:
            field = METADATA_SCHEMA.field(key)
            rows.append((f"`{key}`", TYPES[field.type][1] + (" or null" if field.nullable else ""), MEANINGS[key]))
    return table(("key", "type", "meaning"), rows)


def model_names() -> str:
    """The named models with their sizes, from ``models list --json``."""
    rows = []
    for line in printed("models", "list", "--json").splitlines():
        model = json.loads(line)
        parameters = " + ".join(f"{model[f'{tower}_parameters'] / 1e6:,.0f}" for tower in ("vision", "text"))
        limits = (str(model[key]) for key in ("image_size", "max_tokens", "dim"))
        words = (model[key] or "unknown" for key in ("languages", "licence"))
        rows.append((f"`{model['name']}`", parameters, *limits, *words))
    return table(("name", "million parameters", "pixels", "tokens", "dim", "languages", "licence"), rows)


def recipe_fields() -> str:
    """Every field of every table that a recipe file may have, from the docstrings of the dataclasses."""
    from llm2clip_search.encoders import config
    from llm2clip_search.training.data import (
        augmentation,
        caption_table,
        hard_negatives,
        long_captions,
        own_recipe,
        pairs,
        recipe,
    )
    from llm2clip_search.training.recipes import own
    from llm2clip_search.training.runtime import loop
    from llm2clip_search.training.tasks import caption_llm, clip_recipe, distillation, lora, vision_training

    tables: list[tuple[str, type]] = [
        ("", own.OwnRecipe),
        ("[data] with a start model", own_recipe.OwnData),
        ("[[data.train]], [[data.val]]", own_recipe.OwnSource),
        ("[[evaluation]], and what [[data.train]] has", own_recipe.EvaluationSource),
        ("[embed]", own.EmbedRecipe),
        ("[clip]", clip_recipe.ClipRecipe),
        ("[clip.loop], [captions.loop]", loop.LoopRecipe),
        ("[clip.vision]", vision_training.VisionTraining),
        ("[clip.anchor]", distillation.Anchor),
        ("[clip.keep]", distillation.Distillation),
        ("[clip.hard_negatives]", hard_negatives.HardNegatives),
        ("[clip.augmentation]", augmentation.Augmentation),
        ("[data.long]", long_captions.LongCaptions),
        ("[data] without a start model", recipe.DataRecipe),
        ("[[data.captions]], [[data.image_captions]], [data.dev.captions]", caption_table.CaptionSource),
        ("[[data.captions.columns]]", caption_table.CaptionColumn),
        ("[[data.held_out]]", caption_table.HeldOutSplit),
        ("[[data.dev]]", recipe.DevSplit),
        ("[size]", recipe.DataSize),
        ("[captions]", caption_llm.CaptionLLMRecipe),
        ("[captions.lora], [clip.vision.lora]", lora.LoraRecipe),
        ("[captions.instructions]", pairs.Instructions),
        ("[model]", config.ModelConfig),
        ("[model.vision]", config.VisionConfig),
        ("[model.vision.preprocess]", config.PreprocessConfig),
        ("[model.text], [captions.text]", config.TextConfig),
        ("[model.text.adaptor]", config.AdaptorConfig),
    ]
    return "\n".join(f"### {title or 'At the top'}\n\n{_fields_of(kind)}" for title, kind in tables)


def _fields_of(kind: type) -> str:
    """The own fields of a dataclass, with the docstrings that follow them; one without a docstring is an error."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    rows = []
    for each, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.target.id != "schema_version":
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not documented:
                raise KeyError(f"{kind.__name__}.{each.target.id} has no docstring")
            assert isinstance(after, ast.Expr)
            assert isinstance(after.value, ast.Constant)
            meaning = " ".join(str(after.value.value).replace("``", "`").split()).replace("|", "\\|")
            default = ast.unparse(each.value) if each.value else "required"
            shown = "" if default.startswith("field(") else default
            rows.append((f"`{each.target.id}`", f"`{shown}`" if shown not in ("", "required") else shown, meaning))
    return table(("field", "default", "meaning"), rows)


def printed_block(*arguments: str) -> Callable[[], str]:
    """What a command prints, as a block of text."""
    return lambda: "```text\n" + "\n".join(line.rstrip() for line in printed(*arguments).splitlines()) + "\n```\n"


def printed(*arguments: str) -> str:
    """The stdout of a command that runs in this process."""
    from llm2clip_search.cli import console

    command = typer.main.get_command(app)
    out, width = io.StringIO(), console.out.width
    console.out.width = 1000
    try:
        with redirect_stdout(out):
            command.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    finally:
        console.out.width = width
    return out.getvalue()


def peers() -> str:
    """The tables of the recorded comparison with other programs."""
    from llm2clip_search.benchmarks.perf.peers.report import markdown, read

    path = ROOT / "llm2clip_search" / "benchmarks" / "results" / "peers.json"
    return markdown(read(path)) if path.exists() else "No comparison is recorded.\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "metadata-columns": metadata_columns,
    "filter-columns": filter_columns,
    "hit-keys": hit_keys,
    "model-names": model_names,
    "data-sets": printed_block("bench", "datasets"),
    "recipes": printed_block("train", "recipes"),
    "recipe-fields": recipe_fields,
    "peers": peers,
}


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def pages() -> dict[Path, str]:
    """What every page should hold, by its path."""
    expected = {DOCS / "cli.md": cli_page()}
    for path in sorted(DOCS.rglob("*.md")):
        if path not in expected:
            text = path.read_text(encoding="utf-8")
            expected[path] = BLOCK.sub(lambda match: match["start"] + BLOCKS[match["name"]]() + match["end"], text)
    return expected


def stale() -> dict[Path, str]:
    """The pages that differ from what the code says, with what they should hold."""
    return {
        path: text for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file is stale")
    check = parser.parse_args().check
    changed = stale()
    for path, text in changed.items():
        print(f"{path.relative_to(ROOT)} {'is stale; run python docs/generate.py' if check else 'is written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
