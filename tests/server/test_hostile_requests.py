"""Requests that a hostile client would send to the routes: values that break parsers, and conditions that cost much."""

import json
import time
from collections.abc import Iterator

import pytest

from llm2clip_search.indexers import index_folder
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import running, wait_until
from tests.support.wire import Answer, request

SEARCH = "/api/v1/search"
MARKUP = "<img src=x onerror=alert(1)>\n\"'&.png"
"""A name that a page must not run, and that a header cannot hold."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The real application behind a real socket, over a few images."""
    folder = tmp_path_factory.mktemp("hostile")
    for number in range(5):
        photograph(number).save(folder / f"{number}.png")
    (folder / "0.png").rename(folder / MARKUP)
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    service = Service(ServerConfig(indices=(folder / ".llm2clip",)), encoder=ColourEncoder())
    with running(create_app(service)) as served:
        wait_until(lambda: request(served, "/api/v1/ready").status == 200)
        yield served


def post(port: int, body: bytes, path: str = SEARCH) -> Answer:
    return request(port, path, method="POST", body=body, headers={"content-type": "application/json"})


def is_problem(answer: Answer, *statuses: int) -> bool:
    """True for a problem with one of the statuses; a problem tells nothing of the machine's insides."""
    text = answer.body.decode()
    assert "Traceback" not in text
    assert "llm2clip_search/" not in text
    return answer.status in statuses and answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}{}",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"terms": [{"text": "\xff"}]}',
        b'{"terms": [{"text": "\\ud800"}]}',
        b'{"terms": NaN}',
        b'{"terms": [{"text": "a", "weight": NaN}]}',
        b'{"terms": [{"text": "a", "weight": Infinity}]}',
        b'{"terms": [{"text": "a", "weight": 1e999}]}',
        b'{"terms": [{"text": "a", "weight": -1e308}]}',
        b'{"terms": [{"text": "a", "weight": 0}]}',
        b'{"terms": [{"text": "a"}], "k": 99999999999999999999999999}',
        b'{"terms": [{"text": "a"}], "k": 1' + b"0" * 10_000 + b"}",
        b'{"terms": [{"text": "a"}], "k": 1e400}',
        b'{"terms": [{"text": "a"}], "k": 1.5}',
        b'{"terms": [{"text": "a"}], "k": true}',
        b'{"terms": [{"text": "a"}], "k": -1}',
        b'{"terms": [{"text": "a"}], "offset": 9223372036854775808}',
        b'{"terms": [{"text": "a"}], "min_score": NaN}',
        b'{"terms": [{"text": "a"}], "unknown": 1}',
        b'{"terms": [{"text": "a", "like": "1"}]}',
        b'{"terms": [{"like": "../../etc/passwd"}]}',
        b'{"terms": [{"like": "-1"}]}',
        b'{"terms": [{"like": "1@0"}]}',
        b'{"terms": [{"like": "999999999999999"}]}',
        b'{"terms": [{"like": "' + b"9" * 5000 + b'"}]}',
        b'{"terms": [{"text": "a"}], "sort": "no_such; DROP TABLE images"}',
        b'{"terms": [{"text": "a"}], "cursor": "AAAA"}',
        b'{"terms": [{"text": "a"}], "cursor": "\xc3\xa4"}',
        b'{"terms": [{"text": "a"}], "cursor": "' + b"A" * 100_000 + b'"}',
        b"[" * 500_000,
        b'{"terms":' * 100_000,
        b'{"terms": [' + b'{"text": "a"},' * 60_000 + b'{"text": "a"}]}',
        b'{"terms": [{"text": "' + b"a" * 30_000 + b'"}]}',
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_body_that_no_client_should_send_is_a_problem(port: int, body: bytes) -> None:
    answer = post(port, body)
    assert is_problem(answer, 400, 404), answer


@pytest.mark.parametrize(
    "query",
    [
        "text=",
        "text=a&k=99999999999999999999999",
        "text=a&k=" + "9" * 5000,
        "text=a&k=1&k=2",
        "text=a&k=nan",
        "text=a&min_score=nan",
        "text=a&min_score=inf",
        "text=a&recall=nan",
        "text=a&k=%00",
        "text=a&offset=-1",
        "text=a&unknown=1",
        "like=1%5E99999999999999999999999999999999999",
        "like=%2e%2e%2fetc%2fpasswd",
        "like=" + "9" * 5000,
        "like=1%5E1" + "0" * 400,
        "text=%ed%a0%80&sort=%ed%a0%80",
        "text=a&find=everything",
        "text=a&where=%00",
    ],
    ids=lambda query: query[:40],
)
def test_a_url_that_no_client_should_send_is_a_problem(port: int, query: str) -> None:
    assert is_problem(request(port, f"{SEARCH}?{query}"), 400, 404, 422)


CONDITIONS = [
    "DROP TABLE images",
    "1; DROP TABLE images",
    "width > 1; SELECT 1",
    "width > 1 /* comment",
    "(SELECT count(*) FROM images) > 0",
    "EXISTS (SELECT 1 FROM read_csv('/etc/passwd'))",
    "path IN (SELECT content FROM read_text('/etc/passwd'))",
    "width > (SELECT max(width) FROM images)",
    "getenv('HOME') = 'x'",
    "current_setting('threads') = '2'",
    "pg_sleep(10) IS NULL",
    "width > 1 UNION SELECT 1",
    "COPY images TO '/tmp/stolen'",
    "ATTACH '/tmp/other.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET threads = 100",
    "width > random()",
    "no_such_column = 1",
    "\x00",
    "width",
    "'" * 1001,
    "(" * 20_000 + "1 = 1" + ")" * 20_000,
    "NOT " * 20_000 + "width > 1",
    " OR ".join(f"width = {number}" for number in range(50_000)),
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
]


@pytest.mark.parametrize("where", CONDITIONS, ids=lambda where: where[:30])
def test_sql_that_is_no_condition_is_refused(port: int, where: str) -> None:
    started = time.monotonic()
    answer = post(port, json.dumps({"terms": [{"text": "a"}], "where": where}).encode())
    assert is_problem(answer, 400), answer
    assert time.monotonic() - started < 10
    assert request(port, "/api/v1/health").status == 200


COSTLY = [
    "length(repeat(path, 100000000)) > 0",
    "list_sum(range(10000000000)) > 0",
    "regexp_matches(repeat('a', 30), '(a+)+$')",
    "path LIKE '" + "%a" * 5000 + "%'",
    "path LIKE '" + "%_" * 5000 + "%'",
    "regexp_matches(path, '" + "(.*)*" * 200 + "x')",
    "regexp_matches(path, '(x{1000}){1000}')",
    "length(path || path) > " + " + ".join(["1"] * 20_000),
    " AND ".join(["path LIKE '%a%b%c%d%'"] * 5_000),
]


@pytest.mark.parametrize("where", COSTLY, ids=lambda where: where[:30])
def test_sql_that_would_run_for_minutes_ends(port: int, where: str) -> None:
    started = time.monotonic()
    answer = post(port, json.dumps({"terms": [{"text": "a"}], "where": where}).encode())
    assert answer.status == 200 or is_problem(answer, 400)
    assert time.monotonic() - started < 10, "without a limit it would be minutes"


def test_names_with_markup_are_text(port: int) -> None:
    answer = post(port, b'{"terms": [{"text": "a"}], "where": "path LIKE \'%onerror%\'"}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [hit["name"] for hit in answer.json["hits"]] == [MARKUP]


@pytest.mark.parametrize(
    "path", ["/<script>alert(1)</script>", "/api/v1/%3Cscript%3E", "/api/v1/search/%0d%0aX-Evil:1"]
)
def test_a_path_is_only_ever_text(port: int, path: str) -> None:
    answer = request(port, path)
    assert is_problem(answer, 400, 404)
    assert "x-evil" not in answer.headers
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_captions_are_in_no_log(port: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Neither of good requests nor of wrong ones."""
    request(port, f"{SEARCH}?text=private-caption")
    request(port, f"{SEARCH}?text=private-caption&k=wrong")
    post(port, b'{"terms": [{"text": "private-caption"}], "where": "private-caption"}')
    request(port, f"{SEARCH}?text=private-caption", host="evil.example")
    request(port, f"/private-caption?text=private-caption {chr(1)}")
    out, err = capfd.readouterr()
    assert "private-caption" not in out + err + caplog.text
