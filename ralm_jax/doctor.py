"""`ralm doctor`: what there is to run on, what is installed, and what is missing."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

from ralm_jax import cache
from ralm_jax.ending import does_not_start
from ralm_jax.errors import UserError
from ralm_jax.release import VERSION
from ralm_jax.retrieval import index
from ralm_jax.retrieval.scann_index import ScannConfig
from ralm_jax.retrieval.scann_process import ScannProcess, has_scann
from ralm_jax.terminal import in_words

PACKAGE = "ralm_jax"
# For those who change ralm_jax; and what only helps on a device that is looked for apart.
_NOT_FOR_USE = {"test", "docs", "release", "gpu", "tpu"}
_VECTORS = (1000, 16)  # of the search that ScaNN is tried with


def doctor() -> dict[str, Any]:
    """Looks at this machine, and changes nothing but what starting JAX and ScaNN does.

    Returns:
      {"ralm_jax", "python", "platform", "cores", "memory": {"total", "available"} in bytes or None,
      "devices": [{"kind", "platform", "memory"}], "packages": {name: version or None},
      "scann": {"recall", "build_seconds"} or None, "caches": [{"what", "path", "bytes"}],
      "extras": {name: whether it is installed}, "missing": [{"what", "command"}], "broken": [str]}.
      Whatever is in "broken" is needed; what is in "missing" may be done without.
    """
    report: dict[str, Any] = {
        "ralm_jax": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory": _memory(),
    }
    broken: list[str] = []
    missing: list[dict[str, str]] = []
    report["devices"] = _devices(broken, missing)
    needed, extras = _requirements()
    report["packages"] = {each.name: _installed(each) for each in needed}
    for each in needed:
        if not _satisfied(each):
            found = report["packages"][each.name]
            has = f"{each.name} {found} is installed" if found else f"{each.name} is not installed"
            broken.append(f"{has}: pip install '{each.name}{each.specifier}'")
    report["scann"] = _scann(broken)
    report["caches"] = list(_caches())
    _check_cache(broken)
    report["extras"] = {name: all(map(_satisfied, wanted)) for name, wanted in extras.items()}
    for name, there in report["extras"].items():
        if not there:
            what = ", ".join(each.name for each in extras[name])
            missing.append({"what": f"{name} ({what})", "command": _install(name)})
    return report | {"missing": missing, "broken": broken}


def table(report: dict[str, Any]) -> str:
    """What was found as a person reads it."""
    memory = report["memory"]
    room = f"{in_words(memory['available'])} of {in_words(memory['total'])} free" if memory else ""
    lines = [
        f"ralm_jax   {report['ralm_jax']}, Python {report['python']}, {report['platform']}",
        f"machine    {report['cores']} cores{', memory: ' if room else ''}{room}",
    ]
    for device in report["devices"]:
        size = f", {in_words(device['memory'])} for JAX" if device["memory"] else ""
        lines.append(f"device     {device['kind']} ({device['platform']}){size}")
    versions = (f"{name} {found or 'missing'}" for name, found in report["packages"].items())
    lines.append(f"packages   {', '.join(versions)}")
    if report["scann"]:
        recall, seconds = report["scann"]["recall"], report["scann"]["build_seconds"]
        lines.append(f"ScaNN      searches: recall {recall:.3f}, built in {seconds:.1f} s")
    elif not has_scann():
        lines.append("ScaNN      not installed: the search is exact")
    for each in report["caches"]:
        lines.append(f"cache      {in_words(each['bytes'])}: {each['what']}, {each['path']}")
    installed = [name for name, there in report["extras"].items() if there]
    lines.append(f"extras     {', '.join(installed) or 'none'}")
    for each in report["missing"]:
        # An extra is for those who want what it is for.
        optional = each["what"].partition(" ")[0] in report["extras"]
        lines.append(
            f"{'optional' if optional else 'missing ':<11}{each['what']}: {each['command']}"
        )
    lines += [f"broken     {problem}" for problem in report["broken"]]
    return "\n".join(lines)


def require_well(report: dict[str, Any]) -> None:
    """Raises UserError where something that is needed is broken."""
    if broken := report["broken"]:
        raise UserError(f"{len(broken)} of what is needed is broken; the first: {broken[0]}")


def _memory() -> dict[str, int] | None:
    """Bytes of this machine; None where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES") * page
        total = os.sysconf("SC_PHYS_PAGES") * page
        # What the system has cached of files it gives back.
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) << 10
    except (OSError, ValueError, AttributeError):
        return None
    return {"total": total, "available": free}


def _devices(broken: list[str], missing: list[dict[str, str]]) -> list[dict[str, Any]]:
    """What JAX finds; a GPU that it does not see is among what is missing."""
    try:
        import jax

        devices = jax.devices()
    # Whatever a driver or a plugin raises.
    except Exception as error:
        broken.append(does_not_start(error))
        return []
    found = []
    for device in devices:
        stats = device.memory_stats() or {}
        one = {"kind": device.device_kind, "platform": device.platform}
        found.append({**one, "memory": stats.get("bytes_limit")})
    if all(device.platform == "cpu" for device in devices) and shutil.which("nvidia-smi"):
        missing.append({"what": "JAX for the GPU of this machine", "command": _install("gpu")})
    return found


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What this release needs on this machine, and what its extras do; nothing where it is not installed."""
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
        names = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return [], {}
    every = [Requirement(line) for line in lines]
    needed = [r for r in every if r.marker is None or r.marker.evaluate({"extra": ""})]
    extras = {
        name: [
            r for r in every if r not in needed and r.marker and r.marker.evaluate({"extra": name})
        ]
        for name in names
        if name not in _NOT_FOR_USE
    }
    return needed, extras


def _installed(requirement: Requirement) -> str | None:
    try:
        return importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _satisfied(requirement: Requirement) -> bool:
    found = _installed(requirement)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _install(extra: str) -> str:
    return f"pip install '{PACKAGE}[{extra}]'"


def _scann(broken: list[str]) -> dict[str, float] | None:
    """Builds a small index in ScaNN's own process; None where there is no ScaNN."""
    try:
        searcher = ScannProcess(ScannConfig(k=5))
    except UserError:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="ralm-") as folder:
            writer = index.create(folder, 0, _VECTORS, PACKAGE)
            writer.write(0, np.random.default_rng(0).normal(size=_VECTORS).astype(np.float32))
            searcher.build(writer.commit())
            published = searcher.publish()
    # It ends with whatever its process ended with.
    except Exception as error:
        said = " ".join(str(error).split())
        broken.append(f"ScaNN does not search ({said:.200}); INDEX = 'exact' does without")
        return None
    finally:
        searcher.close()
    return {"recall": published.recall, "build_seconds": published.build_seconds}


def _caches() -> Iterator[dict[str, Any]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    places = [("vectors and indexes", cache.folder()), ("models of the hub", Path(HF_HUB_CACHE))]
    if compiled := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        places.append(("compiled programs", Path(compiled)))
    for what, path in places:
        files = (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        yield {"what": what, "path": str(path), "bytes": sum(f.stat().st_size for f in files)}


def _check_cache(broken: list[str]) -> None:
    """Of vectors: the folder, or the first of those above it that is there, must take a new file."""
    folder = cache.folder()
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(above, os.W_OK):
        broken.append(f"the cache {folder} cannot be written; name another folder in RALM_CACHE")
