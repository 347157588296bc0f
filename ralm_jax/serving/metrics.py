"""What Prometheus reads of the server, and its log: figures and names of routes, never a text."""

import logging
import traceback

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ralm_jax.data.corpus import Corpus

LOG = logging.getLogger("ralm_jax.serving")
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter(
            "ralm_requests", "Requests answered", ["path", "status"], registry=own
        )
        self.seconds = Histogram(
            "ralm_request_seconds", "Until answered", ["path"], buckets=SECONDS, registry=own
        )
        self.waiting = Gauge("ralm_waiting", "Pieces of requests in the queue", registry=own)
        self.abandoned = Counter(
            "ralm_abandoned", "Pieces of requests whose client went away in time", registry=own
        )
        self._items = Histogram(
            "ralm_batch_items",
            "Items worked on together",
            ["operation"],
            buckets=(1, 2, 4, 8, 16, 32),
            registry=own,
        )
        self._batches = Histogram(
            "ralm_batch_seconds", "Of a batch", ["operation"], buckets=SECONDS, registry=own
        )
        self._passages = Gauge("ralm_corpus_passages", "Passages", ["model"], registry=own)
        self._version = Gauge("ralm_corpus_version", "Of the corpus", ["model"], registry=own)

    def request(self, path: str, status: int, seconds: float) -> None:
        """path: of a route as it is declared, so that neither texts nor ids come in."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)
        LOG.info("%s %d %.1f ms", path, status, 1000 * seconds)

    def batch(self, operation: str, items: int, seconds: float) -> None:
        self._items.labels(operation).observe(items)
        self._batches.labels(operation).observe(seconds)

    def serve(self, model: str, corpus: Corpus) -> None:
        """Says which version of a corpus is served from now on."""
        self._passages.labels(model).set(corpus.size)
        self._version.labels(model).set(corpus.version.number)
        LOG.info("%s: version %d, %d passages", model, corpus.version.number, corpus.size)

    def log_failure(self, error: BaseException) -> None:
        """Where an error arose and of which kind; its message may quote what was asked."""
        places = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{p.name}, {p.filename}:{p.lineno}" for p in reversed(places))
        LOG.error("%s in %s", type(error).__name__, where)

    def text(self) -> bytes:
        """In the format that Prometheus reads."""
        return generate_latest(self._registry)
