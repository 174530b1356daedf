"""The description of the API is valid, and the server keeps to it whatever it is asked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from llm2clip_search.indexers import index_folder
from llm2clip_search.server.app import ENDPOINTS, create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.openapi import openapi
from llm2clip_search.server.service import Service
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import running, wait_until
from tests.support.wire import request

CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = 40
"""Requests per route; what it found with many more is in the tests of the routes."""
LOCAL = {"open-folder"}
"""Routes that would touch the machine."""


def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(openapi(ENDPOINTS)))
    return made


def test_the_description_is_valid() -> None:
    schemathesis.openapi.from_dict(document()).validate()
    for schema in schemas_of(document()):
        jsonschema.Draft202012Validator.check_schema(schema)


def schemas_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON schema in a description."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "schema":
                yield inner
            elif name == "schemas":
                yield from inner.values()
            else:
                yield from schemas_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas_of(inner)


def test_every_reference_leads_to_a_schema() -> None:
    made = document()
    named = {each.partition('"')[0] for each in json.dumps(made).split('"$ref": "#/components/schemas/')[1:]}
    assert named
    assert named <= set(made["components"]["schemas"])


def test_operations_have_names_of_their_own() -> None:
    operations = [each for path in document()["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations) == len(ENDPOINTS)
    assert all(each["summary"].endswith(".") for each in operations)


def test_the_description_is_served(client: TestClient) -> None:
    answer = client.get("/api/v1/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server over a few images."""
    folder: Path = tmp_path_factory.mktemp("described")
    for number in range(5):
        photograph(number).save(folder / f"{number}.png")
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    service = Service(ServerConfig(indices=(folder / ".llm2clip",)), encoder=ColourEncoder())
    with running(create_app(service)) as port:
        wait_until(lambda: request(port, "/api/v1/ready").status == 200)
        yield f"http://127.0.0.1:{port}"


SCHEMA = schemathesis.openapi.from_dict(document())


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_to_the_description(case: Any, address: str) -> None:
    if any(name in case.path for name in LOCAL):
        pytest.skip("it opens a window")
    case.call_and_validate(base_url=address, checks=CHECKS)
