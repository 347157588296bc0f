"""Hosts that train together compare what they were given, before anything is made."""

import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.hosts import start
from ralm_jax.runs import config_record
from ralm_jax.runs.lock import LOCK

# Seconds until a file that one host has written is there for another, over a network.
SEEN_AFTER = 10.0


def agree(corpus: Corpus, config: str | None, params: Any) -> None:
    """Raises UserError on all hosts where one has other devices, settings, texts or weights than the first.

    Args:
      params: that training starts from.
    """
    if jax.process_count() == 1:
        return
    devices = jax.local_devices()
    start.agree("devices", {"count": str(len(devices)), "kind": devices[0].device_kind})
    start.agree("a configuration", {} if config is None else config_record.settings_of(config))
    start.agree("a corpus", {"fingerprint": corpus.fingerprint})
    checksum = 0
    for leaf in jax.tree.leaves(params):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).data, checksum)
    start.agree("parameters to start from", {"their checksum": f"{checksum:08x}"})


def agree_on_folder(run: Path) -> None:
    """Raises UserError on all hosts where one does not see the folder that the first one has locked."""
    if jax.process_count() == 1:
        return
    # The first has locked it once it asks.
    start.agree("a beginning", {})
    until = time.monotonic() + SEEN_AFTER
    while not (run / LOCK).exists() and time.monotonic() < until:
        time.sleep(0.1)
    owner = (run / LOCK).read_text("utf-8").strip() if (run / LOCK).exists() else "nobody"
    start.agree(f"a folder {run}", {"its owner": owner})
