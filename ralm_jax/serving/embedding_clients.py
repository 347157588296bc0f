"""What clients of OpenAI's embeddings and of text-embeddings-inference call, and the answers they expect."""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from starlette.requests import Request

from ralm_jax.serving import bodies, operations
from ralm_jax.serving.operations import Embedded, Pair
from ralm_jax.serving.requests import Endpoint, Refused, Serving, chosen, decoded, stripped, worked


async def embed(request: Request, body: bodies.Embed) -> list[list[float]]:
    items = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    run = chosen(request, body.model)
    embedded = await _embedded(request, run, items, _passages(body.prompt_name), body.dimensions)
    lengths = request.app.state.serving.device.runs[run].lengths
    most = lengths.passage if _passages(body.prompt_name) else lengths.query
    if not body.truncate and any(each.pieces >= most for each in embedded):
        raise Refused(413, "Validation", f"a text has {most} wordpieces or more")
    vectors = np.stack([each.vector for each in embedded])
    if body.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.tolist()


async def rerank(request: Request, body: bodies.Rerank) -> list[bodies.Score]:
    query = stripped(body.query, "query")
    pairs = [Pair(query, text) for text in body.texts]
    run = chosen(request, body.model)
    scores = await worked(request, run, operations.score, pairs)
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    opened = request.app.state.serving.device.runs[run]
    shown = scores if body.raw_scores else operations.probabilities(opened, scores).tolist()
    texts = body.texts if body.return_text else [None] * len(body.texts)
    return [bodies.Score(place, shown[place], texts[place]) for place in order]


async def embeddings(request: Request, body: bodies.Embeddings) -> dict[str, Any]:
    items = _texts(body.input if isinstance(body.input, list) else [body.input])
    run = chosen(request, body.model)
    passages = _passages(body.prompt_name) if body.is_query is None else not body.is_query
    embedded = await _embedded(request, run, items, passages, body.dimensions)
    pieces = sum(each.pieces for each in embedded)
    data = [
        {"object": "embedding", "index": i, "embedding": _encoded(each, body.encoding_format)}
        for i, each in enumerate(embedded)
    ]
    usage = {"prompt_tokens": pieces, "total_tokens": pieces}
    return {"object": "list", "data": data, "model": run, "usage": usage}


async def models(request: Request, _: None) -> dict[str, Any]:
    serving: Serving = request.app.state.serving
    about = {"object": "model", "created": 0, "owned_by": "ralm_jax"}
    return {"object": "list", "data": [{"id": name, **about} for name in serving.names]}


def _texts(items: Sequence[Any]) -> list[str | list[str]]:
    """Items of OpenAI's input, without the tokens that may be among them."""
    if any(
        isinstance(x, int) for item in items for x in (item if isinstance(item, list) else [item])
    ):
        why = "tokens of another tokenizer mean nothing here: send texts (LangChain: "
        raise Refused(422, "Validation", f"{why}check_embedding_ctx_length=False)")
    return decoded(msgspec.json.encode(items), bodies.Items)


def _passages(prompt_name: str | None) -> bool:
    return prompt_name in ("passage", "document")


async def _embedded(
    request: Request, run: str, items: Sequence[Any], passages: bool, dimensions: int | None
) -> list[Embedded]:
    width = request.app.state.serving.device.runs[run].model.embedding
    if dimensions not in (None, width):
        raise Refused(422, "Validation", f"dimensions: vectors of {run} have {width}, never fewer")
    if not passages:
        if not all(isinstance(item, str) for item in items):
            raise Refused(422, "Validation", "a pair of title and text is for passages alone")
        return await worked(request, run, operations.embed_questions, items)
    pairs = [("", item) if isinstance(item, str) else tuple(item) for item in items]
    return await worked(request, run, operations.embed_passages, pairs)


def _encoded(embedded: Embedded, form: str) -> str | list[float]:
    if form == "float":
        return embedded.vector.tolist()
    return base64.b64encode(embedded.vector.astype("<f4").tobytes()).decode()


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint("POST", "/v1/embeddings", embeddings, bodies.Embeddings, dict, "As of OpenAI."),
    Endpoint("GET", "/v1/models", models, None, dict, "As of OpenAI."),
    Endpoint(
        "POST", "/embed", embed, bodies.Embed, list[list[float]], "As of text-embeddings-inference."
    ),
    Endpoint(
        "POST", "/rerank", rerank, bodies.Rerank, list[bodies.Score],
        "As of text-embeddings-inference: by the run's scorer, or by the products of vectors.",
    ),
)  # fmt: skip
