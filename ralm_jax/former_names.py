"""Names that runs made by earlier releases have on disk, and what they are called now.

The one place that knows them: a run that was made before a renaming still resumes after it.
"""

SETTINGS = {
    "hold_retriever": "freeze_retriever",
    "hold_encoder": "freeze_encoder",
    "held": "frozen",
    "at_once": "microbatch_size",
    "probe": "eval",
    "probe_every": "eval_every",
}
# Parts of a checkpoint.
CHECKPOINT = {"supply": "loader"}
# In the manifest of an index.
INDEX = {"maker": "encoder_hash"}
# How the names of metrics begin.
METRICS = {"probe/": "eval/", "wait/": "idle/"}


def renamed(name: str) -> str:
    """The present name of a setting."""
    return SETTINGS.get(name, name)
