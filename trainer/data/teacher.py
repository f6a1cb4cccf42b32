"""Opens the teacher of a recipe. One with another tokenizer is refused: its ids would mean other tokens."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from trainer.base.errors import DataError
from trainer.base.paths import expanded
from trainer.data.config import DataConfig
from trainer.data.tokenizer import TokenizerFacts

if TYPE_CHECKING:
    from trainer.model.teacher import Teacher

_DECISIVE = ("normalizer", "pre_tokenizer")  # of a tokenizer's settings, besides its model: how a text is cut
_FILE = "tokenizer.json"


def open_teacher(config: DataConfig, tokenizer: TokenizerFacts, base: Path) -> "Teacher | None":
    """The recipe's teacher, ready to read; None where it has none. Raises UserError where it does not fit."""
    if config.teacher is None:
        return None
    from trainer.model.teacher import Teacher
    from trainer.model.writer import fetched_files

    folder = fetched_files(_origin(config.teacher.model, base), "teacher")[0].parent
    require_same_tokenizer(folder, tokenizer.folder)
    return Teacher(
        str(folder),
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=config.sequence_length,
        top_k=config.teacher.top_k,
    )


def teacher_files(config: DataConfig, base: Path) -> list[Path]:
    """The files of a teacher in a folder that decide what it expects; none of a hub id, which is known by its name."""
    folder = None if config.teacher is None else Path(_origin(config.teacher.model, base))
    if folder is None or not folder.is_dir():
        return []
    return sorted([*folder.glob("*.safetensors"), *(file for file in (folder / "config.json",) if file.is_file())])


def _origin(model: str, base: Path) -> str:
    """The folder, where it is one; a hub id as it is."""
    folder = base / expanded(model)
    return str(folder) if folder.is_dir() else model


def require_same_tokenizer(teacher: Path, student: Path) -> None:
    """Raises UserError where the tokenizers in two folders give a text other ids."""
    file = teacher / _FILE
    if not file.is_file():
        remedy = f"Put the {_FILE} that it was trained with into its folder"
        raise DataError("the teacher has no tokenizer", file=teacher, remedy=remedy)
    theirs, ours = Tokenizer.from_file(str(file)), Tokenizer.from_file(str(student / _FILE))
    if difference := _difference(theirs, ours):
        raise DataError(
            "the teacher has another tokenizer than the recipe",
            got=difference,
            remedy="Set data.tokenizer.pretrained to the teacher's folder, or take a teacher with this tokenizer",
            file=teacher,
        )


def _difference(theirs: Tokenizer, ours: Tokenizer) -> str | None:
    """The first thing that differs, in words."""
    first, second = (tokenizer.get_vocab(with_added_tokens=True) for tokenizer in (theirs, ours))
    if first != second:
        token = min(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
        return f"token {token!r}: id {first.get(token)} there, {second.get(token)} here"
    cut, own = _way_of_cutting(theirs), _way_of_cutting(ours)
    return next((f"another {part}" for part in cut if cut[part] != own[part]), None)


def _way_of_cutting(tokenizer: Tokenizer) -> dict[str, str]:
    settings: dict[str, Any] = json.loads(tokenizer.to_str())
    merges = settings["model"].get("merges")
    parts = {"list of merges": merges, **{name: settings.get(name) for name in _DECISIVE}}
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}
