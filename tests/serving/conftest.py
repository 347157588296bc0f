"""Runs of drawn parameters, one that answers and one that does not, behind an application and an address."""

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.testclient import TestClient

from ralm_jax.batches import Lengths
from ralm_jax.inference import span_reading
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.serving import serve, warming
from ralm_jax.serving.app import application
from ralm_jax.serving.device import DeviceThread
from ralm_jax.serving.metrics import Metrics
from ralm_jax.serving.requests import Serving

SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=8, positions=64, dropout=0.0, init_stddev=0.5
)
LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


def until(so):
    """Waits for what another thread brings about, for a minute at most."""
    for _ in range(6000):
        if so():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come")


@pytest.fixture(autouse=True, scope="session")
def one_size():
    """Batches of one size, read at one width, or each would be a program of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warming, "SIZES", (32,))
        patch.setattr(span_reading, "WIDTHS", 1)
        yield


@pytest.fixture(scope="session")
def runs(tiny, tmp_path_factory):
    """Folders of a run that answers, and of the one before it."""
    folder = tmp_path_factory.mktemp("served")
    for name, kind in (("answers", OpenQA), ("before", Ralm)):
        # Hashed by its sizes: the vectors of one are not those of the other.
        model = directory.sized(kind(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
        parts = {"stages": ["ict"], "lengths": vars(LENGTHS), "held_out": 0.1, "seed": 0}
        directory.describe(folder / name, model, tiny.corpus, **parts)
        checkpoints = Checkpoints(directory.checkpoint_folder(folder / name, "ict"))
        params = initial.drawn_params(model, seed=len(name))
        checkpoints.save(1, {"state": {"params": params}}, wait=True)
        checkpoints.close()
    return folder / "answers", folder / "before"


@pytest.fixture(scope="session")
def opened(runs):
    return OpenRun.open(runs[0])


@pytest.fixture(scope="session")
def before(runs):
    return OpenRun.open(runs[1])


@pytest.fixture
def serving(opened, before):
    """What serves the two, compiled as it is asked."""
    given = {"answers": opened, "before": before}
    metrics = Metrics()
    return Serving(DeviceThread(given, metrics, lambda *_: None), metrics, list(given))


@pytest.fixture
def client(serving):
    with TestClient(application(serving)) as client:
        serving.device.ready.wait()
        yield client


@pytest.fixture
def address(serving):
    """A port of this machine where it is served."""
    listening = serve._listen("127.0.0.1", 0)
    options = {"log_config": None, "access_log": False, "lifespan": "on"}
    server = uvicorn.Server(uvicorn.Config(application(serving), **options))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    with contextlib.closing(listening):
        serving.device.ready.wait()
        yield SimpleNamespace(host="127.0.0.1", port=listening.getsockname()[1], server=server)
        server.should_exit = True
        thread.join()
