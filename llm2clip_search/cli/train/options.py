"""Options that training commands share."""

from pathlib import Path
from typing import Annotated

import typer

LLMFolderOption = Annotated[Path, typer.Option("--llm", help="Folder that train captions wrote.")]
CaptionStoreOption = Annotated[
    Path, typer.Option("--captions", help="Caption store that train embed wrote with that LLM.")
]
