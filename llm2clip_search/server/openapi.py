"""The API's description in OpenAPI 3.1, from the endpoints and their types."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from llm2clip_search.server.endpoint import Endpoint
from llm2clip_search.server.problems import MEDIA_TYPE, TITLES, ProblemDocument

_REF = "#/components/schemas/{name}"


@cache
def describe(endpoints: tuple[Endpoint, ...]) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(openapi(endpoints))


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document: a path and method per endpoint, and a schema per type."""
    types = [each for endpoint in endpoints for each in (endpoint.body, endpoint.answer) if each is not None]
    schemas, components = msgspec.json.schema_components([*types, ProblemDocument], ref_template=_REF)
    answers = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        body = next(answers) if endpoint.body is not None else None
        answer = next(answers) if endpoint.answer is not None else None
        operation = paths.setdefault(endpoint.prefix + endpoint.path, {})
        operation[endpoint.method.lower()] = _operation(endpoint, body, answer, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llm2clip-search", "version": version("llm2clip-search")},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(endpoint: Endpoint, body: Any, answer: Any, components: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": endpoint.summary, "operationId": _name(endpoint)}
    if endpoint.query is not None:
        made["parameters"] = list(_parameters(endpoint, components))
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    elif endpoint.body_media != "application/json":
        made["requestBody"] = {"required": True, "content": {endpoint.body_media: {}}}
    if answer is not None:
        content = {"content": {endpoint.media: {"schema": answer}, **{media: {} for media in endpoint.other_media}}}
    else:
        content = {} if endpoint.status == 204 else {"content": {endpoint.media: {}}}
    schema = {"$ref": _REF.format(name=ProblemDocument.__name__)}
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": schema}}}
    statuses = sorted({status for status, _ in TITLES.values()})
    made["responses"] = {str(endpoint.status): {"description": endpoint.summary, **content}}
    made["responses"] |= {str(status): problem for status in statuses}
    return made


def _parameters(endpoint: Endpoint, components: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of a query: in the path where it names them."""
    kind = endpoint.query
    assert kind is not None, "only endpoints with parameters are described here"
    in_path = set(re.findall(r"{(\w+)(?::\w+)?}", endpoint.path))
    [_], own = msgspec.json.schema_components([kind], ref_template=_REF)
    schema = own.pop(kind.__name__)
    components.update(own)
    required = set(schema.get("required", ()))
    for name, described in schema["properties"].items():
        where = "path" if name in in_path else "query"
        parameter = {"name": name, "in": where, "required": where == "path" or name in required, "schema": described}
        if "description" in described:
            parameter["description"] = described["description"]
        yield parameter


def _name(endpoint: Endpoint) -> str:
    """A name for the operation, such as ``get_images_id_thumbnail``."""
    return "_".join([endpoint.method.lower(), *re.findall(r"\w+", endpoint.path)])
