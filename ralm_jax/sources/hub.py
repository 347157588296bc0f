"""Data sets of the Hugging Face hub by name, in the Parquet that the hub keeps of each."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from ralm_jax.errors import UserError

# Where the hub keeps CONFIG/SPLIT/0000.parquet of a data set, whatever its own files are.
CONVERTED = "refs/convert/parquet"


def dataset_files(name: str) -> list[Path]:
    """The files of `OWNER/NAME[/CONFIG][:SPLIT]`, fetched or from the hub's own cache.

    The configuration is `corpus` or `default` or the only one, the split `corpus` or `train` or the only one,
    unless named.

    Raises UserError where there is no such data set, configuration or split, or no network.
    """
    name, _, split = name.partition(":")
    owner, _, rest = name.partition("/")
    repo, _, config = rest.partition("/")
    repo = f"{owner}/{repo}" if repo else owner
    try:
        files = huggingface_hub.HfApi().list_repo_files(
            repo, repo_type="dataset", revision=CONVERTED
        )
        parts = [file.split("/") for file in sorted(files) if file.endswith(".parquet")]
        config = _chosen(repo, "configuration", config, [part[0] for part in parts], "default")
        here = [part for part in parts if part[0] == config and len(part) > 2]
        split = _chosen(repo, "split", split, [part[1] for part in here], "train")
        wanted = ["/".join(part) for part in here if part[1] == split]
        return [
            Path(
                huggingface_hub.hf_hub_download(repo, file, repo_type="dataset", revision=CONVERTED)
            )
            for file in wanted
        ]
    except (RepositoryNotFoundError, EntryNotFoundError):
        raise UserError(
            f"hf:{name}: the hub has no Parquet of a data set {repo}; look its name up there"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"hf:{name} could not be downloaded ({said}); download its files, and give their folder"
        ) from None


def _chosen(repo: str, what: str, wanted: str, found: list[str], usual: str) -> str:
    names = list(dict.fromkeys(found))
    if wanted in names:
        return wanted
    if not wanted:
        for name in ("corpus", usual):
            if name in names:
                return name
        if len(names) == 1:
            return names[0]
    raise UserError(
        f"hf:{repo} has no {what} {wanted or usual!r}; it has {', '.join(names) or 'none'}"
    )
