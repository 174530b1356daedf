"""``bench evaluation`` as a user runs it, with few vectors."""

import json

from tests.support.commands import RunCli

SMALL = ("--images", "100", "--captions", "503", "--dim", "16")


def test_the_table_names_every_figure(run_cli: RunCli) -> None:
    done = run_cli("bench", "evaluation", *SMALL)
    assert done.returncode == 0
    about, head, *rows = done.stdout.splitlines()
    assert about.startswith("503 captions x 100 images of 16 dimensions: ")
    assert " GB" in about
    assert head.split() == ["measure", "value", "95", "%", "interval", "chance"]
    names = [row.split()[0] for row in rows]
    assert names[0] == "image_retrieval_recall@1"
    assert {"rsum", "text_retrieval_map_at_r", "image_retrieval_median_rank"} < set(names)
    assert done.stderr == ""


def test_json_holds_figures_and_cost(run_command: RunCli) -> None:
    """In a process of its own: the peak of this one is that of all tests before."""
    done = run_command("bench", "evaluation", *SMALL, "--json")
    found = json.loads(done.stdout)
    assert (found["images"], found["captions"], found["dim"]) == (100, 503, 16)
    assert found["at_chance"] is True
    assert 0.01 < found["peak_gb"] < 2
    assert found["seconds"] > 0
    low, high = found["intervals"]["image_retrieval_recall@10"]
    assert low <= found["metrics"]["image_retrieval_recall@10"] <= high


def test_too_few_captions_are_one_sentence(run_cli: RunCli) -> None:
    done = run_cli("bench", "evaluation", "--images", "9", "--captions", "8")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: 8 captions are fewer than 9 images, so some images would have none.",
        "hint: Give --captions 9 or more.",
    ]
