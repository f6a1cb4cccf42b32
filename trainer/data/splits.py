"""Tells the split of a data file from its name, and takes the files of the one that a recipe names.

Names follow the convention of the hub: `train`, `validation`, `test` and their other words, at the end of a file's name
or a folder's, before nothing but the number of a shard. Elsewhere in a name they are words like others (`val-d-isere`,
`dev.blog`), unless a file beside it has the same name with another split's word. Test files lie beside training files
in most published data sets, so a folder that holds both is never read whole unless the recipe says so.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer.base.errors import DataError
from trainer.data.account import FileTally
from trainer.data.readers.compression import COMPRESSED
from trainer.data.walk import WalkedFile

ALL_SPLITS = "all"
_WORDS = {  # as SPLIT_KEYWORDS of `datasets`
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_ANY_WORD = rf"(?:^|[-._ 0-9/])({'|'.join(_SPLIT_OF_WORD)})"
_HASH = r"(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{4,}"
_SHARD = rf"\d*(?:[-._ ]+(?:of|v?\d+|(?:part|shard|chunk)\d*|{_HASH}))*"
_WORD = re.compile(rf"{_ANY_WORD}{_SHARD}$", re.IGNORECASE)
_WORD_WITHIN = re.compile(rf"{_ANY_WORD}(?=[-._ 0-9])", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test` from a file's path below its root; None where no name tells.

    A folder that is called by the word alone decides, then the file's own name, then the nearest folder's.
    """
    *folders, last = PurePosixPath(name).parts
    for folder in reversed(folders):
        if folder.lower() in _SPLIT_OF_WORD:
            return _SPLIT_OF_WORD[folder.lower()]
    for part in (last, *reversed(folders)):
        if word := _WORD.search(_stem(part)):
            return _SPLIT_OF_WORD[word.group(1).lower()]
    return None


def _stem(name: str) -> str:
    """The name without the suffixes of its format and of how it is compressed; a split's word is none."""
    path = PurePosixPath(name)
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    is_suffix = path.suffix and not path.suffix[1:].isdigit() and path.suffix[1:].lower() not in _SPLIT_OF_WORD
    return path.stem if is_suffix else path.name


def of_split(files: Sequence[WalkedFile], split: str | None, *, path: str, tally: FileTally) -> list[WalkedFile]:
    """The files of ``split``; without one, all of them, unless their names tell of held-out splits beside others.

    ``path`` is what the recipe names: it may itself tell the split. Raises UserError where ``split`` has no effect.
    """
    if split == ALL_SPLITS:
        return list(files)
    if split is None:
        _refuse_mixture(files, path)
        return list(files)
    splits = _splits(files)
    kept = [file for file in files if _is_of(file, split, splits[file])]
    if not kept and _told(path, split, split_of(path)):  # the folder itself is the split's
        kept = [file for file in files if splits[file] is None]
    if not kept:
        known = sorted({told for told in splits.values() if told})
        remedy = f"Their names tell {', '.join(known)}" if known else "Their names tell no split: leave `split` out"
        raise DataError("no file of a source is of this split", got=split, remedy=remedy, file=path)
    taken = set(kept)
    for file in files:
        if file not in taken:
            tally.skip(f"not of split {split}", file.name)
    return kept


def _splits(files: Sequence[WalkedFile]) -> dict[WalkedFile, str | None]:
    """The split of each file: what its saved data set says, else what its name tells, alone or with those beside it."""
    splits = {file: file.split or split_of(file.name) for file in files}
    alike: dict[str, dict[WalkedFile, str]] = {}
    for file, told in splits.items():
        word = None if told else _WORD_WITHIN.search(file.name)
        if word:
            rest = f"{file.name[: word.start(1)]}*{file.name[word.end(1) :]}"
            alike.setdefault(re.sub(r"\d+", "0", rest), {})[file] = _SPLIT_OF_WORD[word.group(1).lower()]
    for words in alike.values():  # `train-en-0`, `train-en-1` and `test-en-0`
        if len(set(words.values())) > 1:
            splits |= words
    if any(splits.values()):  # next to `train.jsonl`, `validation_matched.jsonl` is of a split too
        for file, told in splits.items():
            word = None if told else _WORD_WITHIN.match(PurePosixPath(file.name).name)
            if word and word.start(1) == 0:
                splits[file] = _SPLIT_OF_WORD[word.group(1).lower()]
    return splits


def _is_of(file: WalkedFile, split: str, told: str | None) -> bool:
    return file.split == split if file.split is not None else _told(file.name, split, told)


def _told(name: str, split: str, told: str | None) -> bool:
    if split in _SPLIT_OF_WORD:
        return told == _SPLIT_OF_WORD[split]
    word = re.compile(rf"(?:^|[-._ 0-9]){re.escape(split)}(?=[-._ 0-9]|$)")
    return any(word.search(part) for part in PurePosixPath(name).parts)


def _refuse_mixture(files: Sequence[WalkedFile], path: str) -> None:
    splits = _splits(files)
    told = Counter(splits.values())
    is_saved = any(file.split for file in files)
    if len(told) == 1 or not (is_saved or told["validation"] or told["test"]):
        return
    first = {split: file.name for file, split in reversed(splits.items())}
    counts = "; ".join(f"{split or 'no split'}: {count}, such as {first[split]}" for split, count in told.most_common())
    names = [split for split in told if split] or ["train"]
    remedy = f"Write `split: {' | '.join(sorted(names))}`, `split: {ALL_SPLITS}` for all of them, or name the files"
    raise DataError("a source holds files of several splits", got=counts, remedy=remedy, file=path)
