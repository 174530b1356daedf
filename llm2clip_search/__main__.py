"""``python -m llm2clip_search``, the form in which torchrun starts the commands."""

from llm2clip_search.cli.app import main

if __name__ == "__main__":
    main()
