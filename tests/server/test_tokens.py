"""Who needs the token, and how it is given."""

import asyncio
from typing import Any

import httpx
import pytest

from llm2clip_search.errors import InputError
from llm2clip_search.server.config import ServerConfig, new_token
from llm2clip_search.server.safety import MAX_WAITING
from tests.support.guarded import COOKIE, PORT, TOKEN, app, ask


def wrong_by_one(token: str) -> list[str]:
    return [token[:-1], f"{token}x", f"{token[:-1]}x", f"x{token[1:]}", token.upper(), f" {token}x", ""]


def test_the_token_comes_as_bearer_or_cookie() -> None:
    served = app(token=TOKEN)
    for headers in (
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN}"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Cookie": f"other=1; {COOKIE}={TOKEN}; more=2"},
        {"Cookie": f"{COOKIE}=an-old-one; {COOKIE}={TOKEN}"},
    ):
        assert ask(served, headers=headers).status_code == 200, headers


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/search", "/static/page.js", "/api/v1/health/", "/api/v1/images/1/thumbnail"]
)
def test_without_the_token_there_is_nothing(path: str) -> None:
    answer = ask(app(token=TOKEN), path)
    assert answer.status_code == 401
    assert answer.json()["type"] == "/problems/unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["/?token=", "/"])
def test_a_person_without_the_token_is_asked_for_it(path: str) -> None:
    answer = ask(app(token=TOKEN), path, headers={"Accept": "text/html"})
    assert answer.status_code == 401
    assert '<input name="token" type="password"' in answer.text


@pytest.mark.parametrize("wrong", wrong_by_one(TOKEN))
def test_a_token_that_is_wrong_by_one_character_is_wrong(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2clip_search.server.safety.WRONG_TOKEN_SECONDS", 0.0)
    served = app(token=TOKEN)
    assert ask(served, headers={"Authorization": f"Bearer {wrong}"}).status_code == 401
    assert ask(served, headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
    assert ask(served, headers={"Cookie": f"{COOKIE}={wrong}"}).status_code == 401
    assert ask(served, headers={"Cookie": f"llm2clip-8411={TOKEN}"}).status_code == 401
    answer = ask(served, f"/?token={wrong}")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_the_token_in_the_address_becomes_a_cookie_and_leaves_the_address() -> None:
    answer = ask(app(token=TOKEN), f"/?q=a%20dog&token={TOKEN}&view=map")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?q=a%20dog&view=map")
    assert answer.headers["referrer-policy"] == "no-referrer"
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name == f"{COOKIE}={TOKEN}"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert "Secure" not in attributes
    assert ask(app(token=TOKEN), f"/?token={TOKEN}").headers["location"] == "/"
    assert ask(app(token=TOKEN), f"/api/v1/search?token={TOKEN}").status_code == 401


def test_a_token_with_signs_survives_the_address() -> None:
    token = "signs+/.~_-0123456789=="
    for written in (token, "signs%2B%2F.~_-0123456789%3D%3D"):
        assert ask(app(token=token), f"/?token={written}").status_code == 303


def test_the_cookie_is_secure_behind_a_proxy_with_tls_only() -> None:
    served = app(token=TOKEN, allowed_hosts=("photos.example.org",))
    https = {"X-Forwarded-Proto": "https"}
    for host, headers, secure in (
        ("photos.example.org", https, True),
        ("photos.example.org", {}, False),
        (f"127.0.0.1:{PORT}", https, False),
    ):
        cookie = ask(served, f"/?token={TOKEN}", host=host, headers=headers).headers["set-cookie"]
        assert cookie.endswith("; Secure") is secure


def test_health_needs_no_token_but_the_right_host() -> None:
    assert ask(app(token=TOKEN), "/api/v1/health").status_code == 200
    assert ask(app(token=TOKEN), "/api/v1/health", host="evil.example").status_code == 421


def test_guessing_is_slow_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    all_wait = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await all_wait.wait()

    monkeypatch.setattr("llm2clip_search.server.safety.asyncio.sleep", sleep)

    async def run() -> tuple[list[int], int]:
        transport = httpx.ASGITransport(app(token=TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:
            wrong = {"Authorization": "Bearer wrong"}
            waiting = [asyncio.create_task(client.get("/", headers=wrong)) for _ in range(MAX_WAITING)]
            while len(waited) < MAX_WAITING:
                await asyncio.wait(waiting, timeout=0.01)
            refused = await client.get("/", headers=wrong)
            assert refused.headers["retry-after"] == "1"
            right = await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})
            all_wait.set()
            statuses = [answer.status_code for answer in await asyncio.gather(*waiting)]
            again = await client.get("/", headers=wrong)
            return [*statuses, refused.status_code, again.status_code], right.status_code

    statuses, right = asyncio.run(run())
    assert statuses == [401] * MAX_WAITING + [429, 401]
    assert right == 200
    assert set(waited) == {0.5}


def test_tokens_that_are_generated_differ_and_are_accepted() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert len(token) >= 43
        ServerConfig(token=token)


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "a space in the middle", "ünïcödé-ünïcödé", "a;" * 20]
)
def test_tokens_that_are_short_or_cannot_be_sent_are_refused(token: str) -> None:
    with pytest.raises(InputError, match="at least 16 characters"):
        ServerConfig(token=token)


@pytest.mark.parametrize("config", [{"host": "0.0.0.0"}, {"host": "192.168.1.5"}, {"allowed_hosts": ("a.example",)}])
def test_what_others_can_reach_needs_a_token(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="needs a token"):
        ServerConfig(**config)
    assert not ServerConfig(token=TOKEN, **config).is_local
    assert ServerConfig().is_local
