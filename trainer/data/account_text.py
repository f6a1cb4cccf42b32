"""Where the files and rows of each segment went, in words: for the terminal, the plan, the explanation and the report.

Ids and file names are the data's own: control characters are taken out and long names shortened.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.base.formatting import figure
from trainer.data.account import COPY_KINDS, QUARANTINE, Copies, FileAccount, RowAccount

MOST_SEGMENTS_SHOWN = 20
NOTICED_SHARE = 0.01  # of the documents or rows of a segment: from here on a loss is a warning
_TEXT_CHARACTERS = 150


def accounts_of(record: Mapping[str, Any]) -> dict[str, RowAccount]:
    """The accounts that a journal's first line holds; what was written by hand and is none is left out."""
    accounts = {}
    for name, account in record.items():
        try:
            accounts[name] = RowAccount.from_json(account)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return accounts


def account_lines(accounts: Mapping[str, RowAccount]) -> Iterator[str]:
    """One line a segment; of many segments those that lost most."""
    shown = sorted(accounts, key=lambda name: -_lost(accounts[name]))[:MOST_SEGMENTS_SHOWN]
    for name, account in accounts.items():
        if name in shown:
            yield f"{name}: {account_in_words(account)}"
    if len(accounts) > len(shown):
        more = [account for name, account in accounts.items() if name not in shown]
        counts = f"{figure(sum(a.read for a in more))} rows, {figure(sum(a.used for a in more))} used"
        yield f"{len(more)} more segments: {counts}"


def account_in_words(account: RowAccount) -> str:
    """Files, rows, and what became of them, in one line."""
    parts = [f"{figure(account.used)} used"]
    if account.held_out:
        parts.append(f"{figure(account.held_out)} held out")
    lost = dropped_in_words(account)
    if lost:
        parts.append(f"{figure(_lost(account))} dropped: {'; '.join(lost)}")
    if account.copies.same_form:
        parts.append(f"{figure(account.copies.same_form)} of the used share only a form with held-out documents")
    if account.noted:
        parts.append(f"kept and counted: {'; '.join(_noted_in_words(account))}")
    if account.without_key:
        parts.append(f"{figure(account.without_key)} without a key, each a document of its own")
    return f"{figure(account.read)} rows of {files_in_words(account.files)}: {', '.join(parts)}"


def files_in_words(files: FileAccount) -> str:
    """How many files were read, and which were not, why."""
    text = _plural(files.read, "file")
    notes = []
    if files.without_rows:
        notes.append(f"{figure(files.without_rows)} without rows, such as {clean(files.examples_without_rows[0])}")
    for skipped in files.skipped:
        such_as = f", such as {clean(skipped.examples[0])}" if skipped.examples else ""
        notes.append(f"{figure(skipped.num_files)} more skipped: {skipped.reason}{such_as}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def dropped_in_words(account: RowAccount) -> list[str]:
    """What was dropped, by reason; rows that are held out are not lost."""
    reasons = [
        (account.quarantined, "malformed", _listed(account.malformed)),
        (account.not_selected, "not selected by `where`", ""),
        (account.not_sampled, "outside `sample`", ""),
        (account.contaminated, "copies of held-out documents", copies_in_words(account.copies)),
        (account.beyond_limit, "after `max_documents`", ""),
        (account.no_tokens, "without tokens", "the tokenizer can spell nothing of them"),
        (account.taken_down, "taken down", ""),
        *((rows.num_rows, f"by the filter {rows.filter}", clean(rows.reason)) for rows in account.filters),
    ]
    return [f"{figure(count)} {what}{f' ({why})' if why else ''}" for count, what, why in reasons if count]


def _noted_in_words(account: RowAccount) -> Iterator[str]:
    for rows in account.noted:
        yield f"{figure(rows.num_rows)} by the filter {rows.filter} ({clean(rows.reason)})"


def copies_in_words(copies: Copies) -> str:
    """The copies by kind, with one example."""
    counts = ", ".join(f"{figure(getattr(copies, kind))} {kind}" for kind in COPY_KINDS if getattr(copies, kind))
    return f"{counts}, such as {clean(copies.examples[0].in_words())}" if copies.examples else counts


def loss_warnings(accounts: Mapping[str, RowAccount], store: Path | str | None) -> Iterator[str]:
    """What a segment lost that the recipe did not ask for, from one row in a hundred on; ``store`` is the folder of the
    prepared data, which lists malformed rows.
    """
    listed = f"; listed in {Path(store) / QUARANTINE}" if store else ""
    for name, account in accounts.items():
        documents = account.used + account.beyond_limit + account.contaminated
        if account.contaminated > NOTICED_SHARE * documents:
            share = account.contaminated / documents
            copies = copies_in_words(account.copies)
            yield (
                f"{figure(account.contaminated)} of {figure(documents)} documents of {name!r} ({share:.1%}) are copies "
                f"of held-out documents and not trained on: {copies}"
            )
        if account.quarantined > NOTICED_SHARE * account.read:
            share = account.quarantined / account.read
            yield (
                f"{figure(account.quarantined)} of {figure(account.read)} rows of {name!r} ({share:.1%}) are malformed "
                f"and not trained on: {_listed(account.malformed)}{listed}"
            )


def clean(text: str) -> str:
    """A name of the data's own on one line, without control characters, shortened."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= _TEXT_CHARACTERS else f"{plain[:_TEXT_CHARACTERS]}..."


def _lost(account: RowAccount) -> int:
    return account.read - account.used - account.held_out


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{clean(reason)} {figure(count)}" for reason, count in reasons.items())


def _plural(number: int, noun: str) -> str:
    return f"{figure(number)} {noun}" if number == 1 else f"{figure(number)} {noun}s"
