"""What a tokenizer does to the text: what it puts before a document, and what of held-out text it loses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from trainer.base.errors import DataError
from trainer.base.formatting import percent_about


@dataclass(frozen=True, kw_only=True)
class TokenizerAccount:
    """The begin-of-document token of the run and of the tokenizer's own template, and the round trip of the held-out
    text: encoded and decoded again.
    """

    begin_of_document: str | None  # before every document, in training and evaluation
    template: str | None  # what the tokenizer puts before a text by itself, as it will for whoever loads the model
    add_bos_token: bool | None  # what its `tokenizer_config.json` says of that; None where nothing
    documents: int  # held-out ones
    changed_documents: int  # that do not come back as they were
    num_bytes: int
    lost_bytes: int  # of characters that do not come back; at least one of each changed document

    @property
    def lost_share(self) -> float:
        """Part of the held-out text that is lost."""
        return self.lost_bytes / self.num_bytes if self.num_bytes else 0.0

    @property
    def is_lossless(self) -> bool:
        """Whether all held-out text comes back: only then is a loss per byte of the text a loss per byte of it."""
        return not self.changed_documents

    def notes(self) -> list[str]:
        """What a user should be told."""
        notes = []
        if self.begin_of_document != self.template:
            trained = (
                f"begins every document with {self.begin_of_document}" if self.begin_of_document else "puts nothing"
            )
            own = f"puts {self.template} before a text" if self.template else "puts nothing before a text"
            notes.append(f"the tokenizer {own}, and so it will with the saved model; training {trained}")
        if self.add_bos_token not in (None, self.template is not None):
            notes.append(
                f"the tokenizer's tokenizer_config.json says add_bos_token: {str(self.add_bos_token).lower()}, its "
                f"template puts {self.template or 'nothing'} before a text; transformers 5 goes by the template alone. "
                "data.tokenizer.begin_of_document says what training does"
            )
        if not self.is_lossless:
            notes.append(
                f"the tokenizer loses {percent_about(self.lost_share)} of the held-out text "
                f"({self.changed_documents} of {self.documents} documents do not come back as they were), "
                "so no bits per byte are given"
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**record)


def lost_bytes(text: str, decoded: str) -> int:
    """UTF-8 bytes of the characters of ``text`` that ``decoded`` lacks; at least 1 where the two differ."""
    if text == decoded:
        return 0
    missing = Counter(text) - Counter(decoded)
    return max(1, sum(len(character.encode("utf-8")) * count for character, count in missing.items()))


def round_trip(
    texts: Sequence[str],
    decoded: Sequence[str],
    *,
    begin_of_document: str | None,
    template: str | None,
    add_bos_token: bool | None,
) -> TokenizerAccount:
    """The account of held-out ``texts`` and of what they come back as."""
    lost = [lost_bytes(text, back) for text, back in zip(texts, decoded, strict=True)]
    return TokenizerAccount(
        begin_of_document=begin_of_document,
        template=template,
        add_bos_token=add_bos_token,
        documents=len(texts),
        changed_documents=sum(num > 0 for num in lost),
        num_bytes=sum(len(text.encode("utf-8")) for text in texts),
        lost_bytes=sum(lost),
    )


def refuse_loss(account: TokenizerAccount, most: float) -> None:
    """``DataError`` where more than ``most`` of the held-out text is lost."""
    if account.lost_share > most:
        raise DataError(
            "the tokenizer cannot spell the held-out text",
            got=f"{percent_about(account.lost_share)} of it is lost, {percent_about(most)} may be",
            remedy="Take a tokenizer that spells every text (byte-level), or raise data.tokenizer.max_lost_share",
        )
