"""The API of its own: answers with their evidence, search, neighbours, and the corpus by words."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from ralm_jax.serving import bodies, operations
from ralm_jax.serving.operations import Page
from ralm_jax.serving.requests import Endpoint, Refused, Serving, chosen, stripped, worked


async def ask(request: Request, body: bodies.Ask) -> dict[str, Any]:
    serving: Serving = request.app.state.serving
    run, question = chosen(request, body.model), stripped(body.question, "question")
    if not serving.device.runs[run].answers:
        why = "it was not fine-tuned to answer; search it, or serve what ralm finetune makes of it"
        raise Refused(409, "CannotAnswer", f"{run}: {why}")
    (answered,) = await worked(request, run, operations.ask, [question])
    return answered


async def search(request: Request, body: bodies.Search) -> dict[str, Any]:
    page = Page(stripped(body.query, "query"), body.offset, body.limit)
    (found,) = await worked(request, chosen(request, body.model), operations.search, [page])
    return found


async def neighbours(request: Request, body: bodies.Neighbours) -> dict[str, Any]:
    page = Page(body.id, body.offset, body.limit)
    (found,) = await worked(request, chosen(request, body.model), operations.neighbours, [page])
    return found


async def passages(request: Request, body: bodies.Passages) -> dict[str, Any]:
    page = Page(stripped(body.text, "text"), body.offset, body.limit)
    (found,) = await worked(request, chosen(request, body.model), operations.by_words, [page])
    return found


async def passage(request: Request, _: None) -> dict[str, Any]:
    id, run = request.path_params["id"], chosen(request, request.query_params.get("model"))
    (found,) = await worked(request, run, operations.passage, [id])
    return found


async def runs(request: Request, _: None) -> bodies.Runs:
    serving: Serving = request.app.state.serving
    if not serving.device.ready.is_set():
        raise Refused(503, "Unhealthy", "the server is getting ready")
    given = ((name, serving.device.runs[name]) for name in serving.names)
    return bodies.Runs(
        [
            bodies.Served(
                name=name,
                answers=opened.answers,
                passages=opened.corpus.size,
                corpus_version=opened.corpus.version.number,
                dimensions=opened.model.embedding,
                stage=opened.stage,
                step=opened.step,
                lexical_weight=opened.lexical_weight,
                query_length=opened.lengths.query,
                passage_length=opened.lengths.passage,
            )
            for name, opened in given
        ]
    )


ENDPOINTS: Sequence[Endpoint] = (
    Endpoint("POST", "/ask", ask, bodies.Ask, bodies.Answer, "An answer and what it rests on."),
    Endpoint("POST", "/search", search, bodies.Search, bodies.Found, "Passages as the run ranks."),
    Endpoint(
        "POST", "/neighbours", neighbours, bodies.Neighbours, bodies.Near, "Passages near another."
    ),
    Endpoint("POST", "/passages", passages, bodies.Passages, bodies.Near, "Passages by words."),
    Endpoint("GET", "/passages/{id}", passage, None, bodies.Passage, "A passage by its id."),
    Endpoint("GET", "/runs", runs, None, bodies.Runs, "The runs that are served."),
)
