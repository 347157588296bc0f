"""`ralm push`: the folder of an export becomes a repository of the Hugging Face hub."""

import re
from collections.abc import Callable
from pathlib import Path

from ralm_jax import terminal
from ralm_jax.errors import UserError
from ralm_jax.release import VERSION
from ralm_jax.sharing.card import CARD


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    pull_request: bool = False,
    say: Callable[[str], object] = terminal.say,
) -> str:
    """Uploads a folder to a repository of models, which is made if it is not there.

    A card that is there already stays, for somebody may have written it.

    Args:
      repository: OWNER/NAME.
      private: where the repository is made.
      pull_request: opens one, rather than committing to the main branch.

    Returns:
      Where it is.

    Raises:
      UserError: no such folder or nothing in it, no token, or whatever the hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    folder = Path(folder)
    if not any(folder.rglob("*.safetensors")):
        raise UserError(f"{folder} has no weights to upload; give the folder that ralm export made")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{repository} is no repository of the hub; write it as OWNER/NAME")
    if not get_token():
        raise UserError(
            "there is no token of the Hugging Face hub: set HF_TOKEN to one that may write"
        )
    api = HfApi()
    # Its client raises whatever its transport raises, hence every Exception.
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        kept = [CARD] if api.file_exists(repository, CARD) else []
        if kept:
            say(f"{repository} has a card already, which stays as it is")
        made = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Upload a model of ralm_jax {VERSION}",
            create_pr=pull_request,
            ignore_patterns=[*kept, ".*", "**/.*"],
        )
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(f"{repository} cannot be uploaded to: {said:.200}") from None
    where = str(getattr(made, "pr_url", None) or made.commit_url)
    say(f"{repository}: {where}")
    return where
