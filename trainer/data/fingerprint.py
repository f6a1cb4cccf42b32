"""Names a store after what decides its content, and finds it again without reading the data.

The fingerprint is a hash of the files' content and of the settings that change a byte of the store; paths, file times
and the number of processes are no part of it. Reading 4 GB to find out that nothing changed would cost seconds at
every start, so a second, cheap key (paths, sizes, times of change) leads to the fingerprint found last time.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from trainer.base.paths import expanded
from trainer.data.config import DataConfig, HeldOutByShare, HeldOutDataset
from trainer.data.files import found_files
from trainer.data.find import FoundFiles, content_hash, is_indexed, stamp
from trainer.data.store import STORE_FORMAT
from trainer.data.teacher import teacher_files

CACHE_VARIABLE = "HYBRID_TRAINER_CACHE"
_WITHOUT_EFFECT: dict[str, Any] = {
    **dict.fromkeys(("cache", "num_proc", "remote_timeout_s", "sources", "held_out"), True),
    "teacher": {"batch"},
}
_ORIGIN = {"path", "package", "hub", "configuration", "revision", "streaming"}


def cache_folder(config: DataConfig, base: Path) -> Path:
    """data.cache, else $HYBRID_TRAINER_CACHE, else ~/.cache/hybrid-trainer."""
    if config.cache is not None:
        return (base / expanded(config.cache)).resolve()
    return default_cache()


def default_cache() -> Path:
    """$HYBRID_TRAINER_CACHE, else ~/.cache/hybrid-trainer."""
    named = os.environ.get(CACHE_VARIABLE)
    return expanded(named).resolve() if named else Path.home() / ".cache" / "hybrid-trainer"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=False, default=str).encode()).hexdigest()


def _settings(config: DataConfig, seed: int) -> dict[str, Any]:
    rule = config.held_out
    return {
        "format": STORE_FORMAT,
        "settings": config.model_dump(mode="json", exclude=_WITHOUT_EFFECT),
        "held_out": rule.kind if isinstance(rule, HeldOutDataset) else rule.model_dump(mode="json"),
        "seed": seed if isinstance(rule, HeldOutByShare) else None,  # no other choice of documents depends on it
    }


def _pretrained_files(config: DataConfig, base: Path) -> list[Path]:
    folder = base / expanded(config.tokenizer.pretrained) if config.tokenizer.pretrained else None
    return sorted(folder.glob("*.json")) if folder and folder.is_dir() else []


def _taken_down(found: FoundFiles) -> list[str]:
    """What rows of the files are taken down, in one hash; nothing where none is."""
    return [_hash(sorted(found.taken_down))] if found.taken_down else []


def content_fingerprint(config: DataConfig, *, seed: int, base: Path, cache: Path) -> tuple[str, dict[str, Any]]:
    """The fingerprint, and the inputs behind it: {segment: [{file, sha256}]}."""
    digest_of = functools.cache(content_hash)  # segments may be parts of one file
    inputs: dict[str, Any] = {}
    for name in config.every_segment:
        found = found_files(config, name, base, cache)
        inputs[name] = [{"file": file.name, "sha256": digest_of(file.path)} for file in found.files]
        inputs[name] += [{"file": "(rows taken down)", "sha256": taken} for taken in _taken_down(found)]
    inputs["tokenizer"] = [
        {"file": file.name, "sha256": content_hash(file)} for file in _pretrained_files(config, base)
    ]
    inputs["teacher"] = [{"file": file.name, "sha256": content_hash(file)} for file in teacher_files(config, base)]
    # Not where a file lies, but its name (default ids have it); license and kind stand in the manifest.
    segments = {
        name: segment.model_dump(mode="json", exclude=_ORIGIN) for name, segment in config.every_segment.items()
    }
    return _hash([_settings(config, seed), list(segments.items()), inputs]), inputs


def stamp_key(config: DataConfig, *, seed: int, base: Path, cache: Path) -> str:
    """A key that all processes of a run compute alike, reading no data. Raises UserError where a file is missing."""
    stamps: dict[str, Any] = {}
    for name, segment in config.every_segment.items():
        found = found_files(config, name, base, cache)
        stamps[name] = [file.path if is_indexed(segment) else stamp(file.path) for file in found.files]
        stamps[name] += _taken_down(found)
    stamps["tokenizer"] = [stamp(file) for file in _pretrained_files(config, base)]
    stamps["teacher"] = [stamp(file) for file in teacher_files(config, base)]
    segments = {name: segment.model_dump(mode="json") for name, segment in config.every_segment.items()}
    return _hash([_settings(config, seed), list(segments.items()), stamps])[:32]
