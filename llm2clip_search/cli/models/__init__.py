"""``llm2clip-search models``: list, recommend, show, fetch, convert, average, calibrate and export encoders."""

import typer

from llm2clip_search.cli.models.average import average_models
from llm2clip_search.cli.models.calibrate import calibrate_model
from llm2clip_search.cli.models.convert import convert_model
from llm2clip_search.cli.models.export import export_model
from llm2clip_search.cli.models.list import list_models
from llm2clip_search.cli.models.pull import pull_model
from llm2clip_search.cli.models.recommend import recommend_models
from llm2clip_search.cli.models.show import show_model

models = typer.Typer(
    no_args_is_help=True, help="List, recommend, show, fetch, convert, average, calibrate and export encoders."
)
models.command("list")(list_models)
models.command("recommend")(recommend_models)
models.command("show")(show_model)
models.command("pull")(pull_model)
models.command("convert")(convert_model)
models.command("average")(average_models)
models.command("calibrate")(calibrate_model)
models.command("export")(export_model)
