"""`ralm serve`: a run, and perhaps one beside it, at an address until a signal comes."""

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from ralm_jax.errors import UserError
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.serving.warming import warm
from ralm_jax.signals import Terminated, handled

try:
    import uvicorn

    from ralm_jax.serving.app import application
    from ralm_jax.serving.device import DeviceThread
    from ralm_jax.serving.metrics import LOG, Metrics
    from ralm_jax.serving.requests import Serving
except ModuleNotFoundError as error:
    if (error.name or "").startswith("ralm_jax"):
        raise
    raise UserError(f"{error.name} is missing: pip install 'ralm_jax[serve]'") from None

KEY = "RALM_API_KEY"
# Seconds that requests in flight may take once a signal has come.
DRAIN = 30
# Connections are files: as many as the system lets a process have, up to this.
FILES = 1 << 16


def serve(
    *,
    run: str | Path,
    beside: str | Path | None = None,
    corpus: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | Path | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, answers what is in flight, and returns.

    Args:
      run, beside: folders of runs; the page shows them side by side.
      corpus: stands in for that of `run`.
      host: the address to listen at. Other than this machine's own, it needs a key.
      port: 0 for one that is free.
      api_key_file: its first line is the key; otherwise RALM_API_KEY, where it is set.

    Raises:
      UserError: as `OpenRun.open` and its corpus; no key where one is needed; the address is taken.
    """
    key, local = _key(api_key_file), _is_local(host)
    if key is None and not local:
        raise UserError(f"--host {host} is open to others: set {KEY}, or give --api-key-file FILE")
    opened = _opened(run, beside, corpus)
    listening, metrics = _listen(host, port), Metrics()
    place = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    _log_to_stderr()
    began = time.perf_counter()

    def failed() -> None:
        server.should_exit = True

    def ready() -> None:
        seconds = time.perf_counter() - began
        LOG.info("ready after %.1f s: http://%s:%d", seconds, shown, place)

    device = DeviceThread(opened, metrics, warm, ready, failed)
    hosts = frozenset((shown, "localhost", "127.0.0.1", "[::1]")) if local else None
    serving = Serving(device, metrics, list(opened), key, hosts)
    options = {"log_config": None, "access_log": False, "server_header": False}
    config = uvicorn.Config(
        application(serving), timeout_graceful_shutdown=DRAIN, lifespan="on", **options
    )
    server = uvicorn.Server(config)
    LOG.info("getting ready; http://%s:%d/health says when", shown, place)
    # Once all is tidy uvicorn raises the signal that ended it.
    ended = contextlib.suppress(KeyboardInterrupt, Terminated)
    with listening, ended, handled((signal.SIGHUP,), server.handle_exit):
        server.run(sockets=[listening])
    if device.failure is not None:
        raise device.failure


def _opened(run, beside, corpus) -> dict[str, OpenRun]:
    """Runs by the names of their folders; by their paths where these are alike."""
    given = [Path(run), *([Path(beside)] if beside is not None else [])]
    names = [path.resolve().name for path in given]
    if len(set(names)) < len(names):
        names = [str(path) for path in given]
    if len(set(names)) < len(names):
        raise UserError(f"--beside {beside} is the run itself; give another, or leave it out")
    corpora = (corpus, None)
    each = zip(names, given, corpora, strict=False)
    runs = {name: OpenRun.open(path, own) for name, path, own in each}
    for opened in runs.values():
        _ = opened.corpus
    return runs


def _key(file: str | Path | None) -> bytes | None:
    if file is None:
        return os.environ.get(KEY, "").strip().encode() or None
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"--api-key-file {file} cannot be read: {why}") from None
    key = text.partition("\n")[0].strip()
    if not key:
        raise UserError(f"--api-key-file {file}: its first line is to be the key, and is empty")
    return key.encode()


def _is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: a port is a number of 0 to 65535")
    _allow_connections()
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"cannot listen at {host}, port {port}: {why}; try another --port"
        ) from None


def _allow_connections() -> None:
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOG.handlers.clear()
    LOG.addHandler(handler)
    LOG.propagate = False
    LOG.setLevel(logging.INFO)
