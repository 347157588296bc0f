"""The configuration a run keeps, and whether another one says the same.

What is compared is what was set, not where the code that takes it lies: module names, the order of
lines, comments and imports do not count, so that a run outlives the moving of modules.
"""

import re
from pathlib import Path

from ralm_jax.errors import UserError
from ralm_jax.former_names import renamed
from ralm_jax.runs.files import damaged, write_atomically

CONFIG = "config.gin"
# Written since settings are compared by name. A configuration without it came from an older
# release, which had bindings that are gone and lacked some that have come: of those, what both have
# in common is compared.
HEADER = "# ralm_jax configuration, resolved; format 2"


def save_config(run: Path, resolved: str) -> None:
    """Writes RUN/config.gin, or checks that the run was made with the same settings.

    A configuration that nothing was made with, since something else was at fault, is replaced.

    Raises UserError where the settings differ, or the directory cannot be written.
    """
    file = run / CONFIG
    check_config(run, resolved)
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not file.exists() or not _made_with(run):
            write_atomically(file, f"{HEADER}\n{resolved}")
    except OSError as error:
        raise UserError(f"the run directory {run} cannot be written: {error.strerror}") from error


def check_config(run: Path, resolved: str) -> None:
    """Raises UserError where the run was made with other settings than a resolved configuration has."""
    file = run / CONFIG
    if not file.exists() or not _made_with(run):
        return
    try:
        kept = file.read_text("utf-8")
    except ValueError:
        raise damaged(file) from None
    there, here = settings_of(kept), settings_of(resolved)
    names = there.keys() | here.keys() if kept.startswith(HEADER) else there.keys() & here.keys()
    changed = [name for name in sorted(names) if there.get(name) != here.get(name)]
    if changed:
        shown = "; ".join(
            f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            for name in changed[:2]
        )
        raise UserError(
            f"{run} has a run of another configuration ({shown}): resume it with its own, or choose "
            "another --run"
        )


def settings_of(text: str) -> dict[str, str]:
    """{setting: value} of a resolved configuration, without module names: {"realm/Realm.candidates": "8"}."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "from ", "import ")):
            continue
        if line[:1].isspace() and name:
            found[name] += " " + line.strip().rstrip("\\").strip()
            continue
        name, _, value = (part.strip() for part in line.partition("="))
        name = _bare_setting(name)
        found[name] = value.rstrip("\\").strip()
    return {name: _bare_value(value.strip()) for name, value in found.items()}


def _bare_setting(name: str) -> str:
    scope, _, rest = name.rpartition("/")
    parts = [renamed(part) for part in rest.split(".")[-2:]]
    return "/".join(filter(None, [scope, ".".join(parts)]))


def _bare_value(value: str) -> str:
    """References lose their modules: @realm/tasks.Realm() -> @realm/Realm()."""

    def bare(match: re.Match[str]) -> str:
        scope, _, rest = match[1].rpartition("/")
        return "@" + "/".join(filter(None, [scope, renamed(rest.split(".")[-1])]))

    return re.sub(r"@([\w./]+)", bare, value)


def _made_with(run: Path) -> bool:
    """Whether anything but its configuration is in the run."""
    return any(other.name != CONFIG and not other.name.startswith(".") for other in run.iterdir())
