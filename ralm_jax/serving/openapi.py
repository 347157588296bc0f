"""The OpenAPI document of the server, made of its endpoints and of what they take and give."""

from collections.abc import Sequence
from typing import Any

import msgspec

from ralm_jax.serving import bodies
from ralm_jax.serving.requests import Endpoint

# What any endpoint may refuse, with the forms of `requests.refusal`.
REFUSALS = {
    400: "not JSON, or a text is empty",
    401: "the key is missing or wrong",
    404: "no such model, or no such passage",
    408: "the body did not come",
    409: "the run was not fine-tuned to answer",
    413: "the body, a text or the number of texts is too large",
    415: "the body is not application/json",
    421: "asked by another name than the server's own",
    422: "a field is missing, of the wrong kind, or out of range",
    429: "too many requests are waiting; see Retry-After",
    500: "the server failed",
    503: "the server is getting ready, or stopping",
}


def document(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    wanted = [kind for e in endpoints for kind in (e.takes, e.gives) if kind is not None]
    types = [*wanted, bodies.Error, bodies.OpenAIError]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    of = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        openai = endpoint.path.startswith("/v1/")
        error = _json(of[repr(bodies.OpenAIError if openai else bodies.Error)])
        answers = {str(status): {"description": s, **error} for status, s in REFUSALS.items()}
        given = {"description": endpoint.says, **_json(of[repr(endpoint.gives)])}
        about: dict[str, Any] = {
            "summary": endpoint.says,
            "operationId": f"{endpoint.method.lower()} {endpoint.path}",
            "responses": {"200": given, **answers},
            "security": [{}, {"key": []}],
        }
        if endpoint.takes is not None:
            about["requestBody"] = {"required": True, **_json(of[repr(endpoint.takes)])}
        if "{id}" in endpoint.path:
            name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
            about["parameters"] = [name]
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = about
    key = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ralm serve", "version": version},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": key}},
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
