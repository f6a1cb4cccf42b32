"""Tells the split of a data file from its name, and takes the files of the one that a recipe names.

Names follow the convention of the hub: `train`, `validation`, `test` and their other words, in a file's name or as a
folder's, between signs that are no letters. Test files lie beside training files in most published data sets, so a
folder that holds both is never read whole unless the recipe says so.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer.base.errors import DataError
from trainer.data.account import FileTally
from trainer.data.walk import WalkedFile

ALL_SPLITS = "all"
_WORDS = {  # as SPLIT_KEYWORDS of `datasets`
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_WORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(_SPLIT_OF_WORD)})(?=[-._ 0-9]|$)", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test` from a file's path below its root; None where no name tells.

    A folder that is called by the word alone decides, then the file's own name, then the nearest folder's.
    """
    *folders, last = PurePosixPath(name).parts
    for folder in reversed(folders):
        if folder.lower() in _SPLIT_OF_WORD:
            return _SPLIT_OF_WORD[folder.lower()]
    for part in (last, *reversed(folders)):
        if word := _WORD.search(part):
            return _SPLIT_OF_WORD[word.group(1).lower()]
    return None


def of_split(files: Sequence[WalkedFile], split: str | None, *, path: str, tally: FileTally) -> list[WalkedFile]:
    """The files of ``split``; without one, all of them, unless their names tell of held-out splits beside others.

    ``path`` is what the recipe names: it may itself tell the split. Raises UserError where ``split`` has no effect.
    """
    if split == ALL_SPLITS:
        return list(files)
    if split is None:
        _refuse_mixture(files, path)
        return list(files)
    kept = [file for file in files if _is_of(file, split)]
    if not kept and _told(path, split):  # the folder itself is the split's
        kept = [file for file in files if file.split is None and split_of(file.name) is None]
    if not kept:
        known = sorted({told for file in files if (told := file.split or split_of(file.name))})
        remedy = f"Their names tell {', '.join(known)}" if known else "Their names tell no split: leave `split` out"
        raise DataError("no file of a source is of this split", got=split, remedy=remedy, file=path)
    for file in files:
        if file not in kept:
            tally.skip(f"not of split {split}", file.name)
    return kept


def _is_of(file: WalkedFile, split: str) -> bool:
    if file.split is not None:
        return file.split == split
    return _told(file.name, split)


def _told(name: str, split: str) -> bool:
    if split in _SPLIT_OF_WORD:
        return split_of(name) == _SPLIT_OF_WORD[split]
    word = re.compile(rf"(?:^|[-._ 0-9]){re.escape(split)}(?=[-._ 0-9]|$)")
    return any(word.search(part) for part in PurePosixPath(name).parts)


def _refuse_mixture(files: Sequence[WalkedFile], path: str) -> None:
    told = Counter(file.split or split_of(file.name) for file in files)
    is_saved = any(file.split for file in files)
    if len(told) == 1 or not (is_saved or told["validation"] or told["test"]):
        return
    first = {split: next(file.name for file in files if (file.split or split_of(file.name)) == split) for split in told}
    counts = "; ".join(f"{split or 'no split'}: {count}, such as {first[split]}" for split, count in told.most_common())
    names = [split for split in told if split] or ["train"]
    remedy = f"Write `split: {' | '.join(sorted(names))}`, `split: {ALL_SPLITS}` for all of them, or name the files"
    raise DataError("a source holds files of several splits", got=counts, remedy=remedy, file=path)
