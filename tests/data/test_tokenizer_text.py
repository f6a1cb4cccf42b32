"""What a tokenizer does to the text: its begin of a document, special tokens that are spelled, text that is lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.data.corpus import documents, prepared, recipe, write_jsonl
from trainer.base.errors import UserError
from trainer.data.store import PreparedData
from trainer.data.tokenizer_account import lost_bytes
from trainer.data.tokenizer_template import template_prefix
from trainer.evaluate.eval_batches import cut_windows

SPECIAL = ["<eos>", "<bos>", "<|im_start|>", "<|im_end|>"]
EOS, BOS = 0, 1


def tokenizer_folder(
    folder: Path, template: str | None = None, settings: dict[str, Any] | None = None, **files: Any
) -> Path:
    """A byte-level tokenizer of these tests with the given template and settings."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([row["text"] for row in documents(50)], trainer=trainer)
    if template is not None:
        own = [(token, number) for number, token in enumerate(SPECIAL) if token in template]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=own)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", **(settings or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def with_tokenizer(folder: Path, source: dict[str, Any] | None = None, **tokenizer: Any) -> PreparedData:
    tree = recipe(tokenizer={"pretrained": str(folder / "tokenizer"), **tokenizer})
    tree["sources"]["made"] |= source or {}
    return prepared(folder, tree)


def tokens_of(data: PreparedData, source: str) -> np.ndarray[Any, Any]:
    """The ids of a source's token stream, in order."""
    segment = data.sources[source].segments[0]
    return segment.gather(np.arange(segment.num_samples)).ravel()[: segment.num_tokens]


TEMPLATES: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    ("<bos> $A", {"bos_token": "<bos>"}),
    ("<bos> $A <eos>", {}),
    ("$A <eos>", {}),
    (None, {"bos_token": "<bos>", "add_bos_token": True}),
    (None, {"bos_token": {"content": "<bos>", "__type": "AddedToken"}, "add_bos_token": True}),
    ("<bos> $A", {"bos_token": "<bos>", "add_bos_token": False}),
    ("<bos> $A", {"bos_token": "<bos>", "add_eos_token": True}),
    (None, {"add_bos_token": True}),
    ("<|im_start|> <bos> $A", {}),
]


@pytest.mark.parametrize(("template", "settings"), TEMPLATES)
def test_the_template_is_what_transformers_puts_before_a_text(
    tmp_path: Path, template: str | None, settings: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tokenizer_folder(tmp_path / "tokenizer", template, settings)
    ids = transformers.AutoTokenizer.from_pretrained(str(folder))("birds")["input_ids"]
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = plain.encode("birds", add_special_tokens=False).ids
    start = next(start for start in range(len(ids)) if ids[start : start + len(text)] == text)
    assert template_prefix(plain) == tuple(ids[:start])


def test_every_document_begins_as_the_tokenizers_own_template_has_it(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<bos> $A", {"bos_token": "<bos>"})
    data = with_tokenizer(folder)
    assert (data.begin_of_document, data.end_of_document) == (BOS, EOS)
    for name, source in data.sources.items():
        (segment,) = source.segments
        ids = tokens_of(data, name).tolist()
        assert ids.count(BOS) == segment.num_documents == ids.count(EOS)
        starts = [segment.document_span(document)[0] for document in range(segment.num_documents)]
        assert all(ids[start] == BOS for start in starts)
    for part in (data.validation, data.test):
        assert all(part.document_tokens(number)[0] == BOS for number in range(len(part.ids)))
        assert (part.tokens == BOS).sum() == len(part.ids)


def test_the_texts_of_documents_come_back_without_what_begins_them(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<bos> $A")
    segment = (data := with_tokenizer(folder)).sources["made"].segments[0]
    texts = {data.decode(segment.document_tokens(number)) for number in range(segment.num_documents)}
    assert texts == {row["text"] for row in documents(60, "made")}
    assert BOS not in segment.document_tokens(3)


def test_without_a_begin_the_store_is_that_of_the_tokenizer_without_a_template(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<bos> $A")
    without = with_tokenizer(folder, begin_of_document="none")
    tokenizer_folder(folder / "tokenizer", None)
    plain = with_tokenizer(folder)
    for name in without.sources:
        pair = [data.sources[name].segments[0].fingerprint for data in (without, plain)]
        assert pair[0] == pair[1]
    assert np.array_equal(without.validation.tokens, plain.validation.tokens)
    assert (plain.notes(), len(without.notes())) == ([], 1)
    assert "puts <bos> before a text" in without.notes()[0]


@pytest.mark.parametrize(("template", "asked"), [(None, True), ("<bos> $A", False)])
def test_a_template_that_differs_from_the_tokenizers_settings_is_told(
    folder: Path, template: str | None, asked: bool
) -> None:
    tokenizer_folder(folder / "tokenizer", template, {"bos_token": "<bos>", "add_bos_token": asked})
    data = with_tokenizer(folder)
    assert (data.begin_of_document is None) == (template is None)
    (note,) = data.notes()
    assert f"add_bos_token: {str(asked).lower()}" in note


def test_a_begin_that_is_the_end_of_the_document_before_is_not_put_twice(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<eos> $A")
    data = with_tokenizer(folder)
    segment = data.sources["made"].segments[0]
    assert data.begin_of_document is None
    assert tokens_of(data, "made").tolist().count(EOS) == segment.num_documents
    assert data.notes() == []


def test_a_named_begin_is_put_and_told_where_the_tokenizer_puts_another(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<bos> $A")
    data = with_tokenizer(folder, begin_of_document="<|im_start|>")
    assert data.begin_of_document == SPECIAL.index("<|im_start|>")
    assert "begins every document with <|im_start|>" in data.notes()[0]


def test_a_begin_that_does_not_exist_and_a_template_of_two_tokens_are_refused(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<|im_start|> <bos> $A")
    with pytest.raises(UserError, match=r"no such begin-of-document token .got '<s>'"):
        with_tokenizer(folder, begin_of_document="<s>")
    with pytest.raises(UserError, match=r"puts 2 tokens before a text .got '<.im_start.> <bos>'"):
        with_tokenizer(folder)
    assert with_tokenizer(folder, begin_of_document="<bos>").begin_of_document == BOS


def test_a_trained_tokenizer_puts_the_begin_that_was_asked_for_by_itself(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = prepared(folder, recipe(tokenizer={"train_bpe": 300, "begin_of_document": "<s>"}))
    ids = transformers.AutoTokenizer.from_pretrained(str(data.tokenizer_folder))("birds")["input_ids"]
    assert data.begin_of_document == ids[0] != ids[1]
    assert data.notes() == []
    assert data.validation.document_tokens(0)[0] == ids[0]


def test_windows_of_held_out_documents_have_their_begin_as_context_and_predict_the_same_tokens(folder: Path) -> None:
    tokenizer_folder(folder / "tokenizer", "<bos> $A")
    begun, plain = with_tokenizer(folder), with_tokenizer(folder, begin_of_document="none")
    numbers = np.arange(len(plain.validation.ids))
    for length in (2, 5, 16):
        windows = [
            cut_windows(data.validation, numbers, sequence_length=length, end_of_document=EOS, begins=data is begun)
            for data in (begun, plain)
        ]
        rows = [window.ids(np.arange(len(window.num_valid))) for window in windows]
        assert np.array_equal(windows[0].num_valid, windows[1].num_valid)
        assert np.array_equal(rows[0][:, 1:], rows[1][:, 1:])  # all that is predicted
        is_first = windows[0].starts == 0
        assert (rows[0][is_first, 0] == BOS).all()
        assert (rows[1][is_first, 0] == EOS).all()
        assert np.array_equal(rows[0][~is_first, 0], rows[1][~is_first, 0])


CHAT = "<|im_start|>user\nHow many birds?<|im_end|>"


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize(("choice", "num_tokens"), [("text", 0), ("parse", 60 * 2)])
def test_spelled_special_tokens_are_text_unless_their_source_asks_for_the_tokens(
    folder: Path, num_proc: int, choice: str, num_tokens: int
) -> None:
    write_jsonl(folder / "made.jsonl", [{"id": str(i), "text": f"{CHAT} {i} and {i * 7}"} for i in range(60)])
    tokenizer_folder(folder / "tokenizer")
    tree = recipe(tokenizer={"pretrained": str(folder / "tokenizer")}, num_proc=num_proc)
    tree["sources"]["made"] |= {"special_tokens": choice}
    data = prepared(folder, tree)
    ids = tokens_of(data, "made")
    assert np.isin(ids, [2, 3]).sum() == num_tokens
    account = data.rows["made"]
    assert account.spelled == {"<|im_start|>": 60, "<|im_end|>": 60}
    assert data.rows["web"].spelled == {}
    (note,) = data.notes()
    assert "source made" in note
    assert "<|im_start|> (60)" in note
    assert ("taken as text" in note) == (choice == "text")


def test_held_out_documents_are_taken_as_their_source_asks(folder: Path) -> None:
    write_jsonl(folder / "web.jsonl", [{"id": str(i), "text": f"{CHAT} {i}", "topic": "t"} for i in range(200)])
    tokenizer_folder(folder / "tokenizer")
    tree = recipe(tokenizer={"pretrained": str(folder / "tokenizer")})
    tree["sources"]["web"] |= {"special_tokens": "parse"}
    data = prepared(folder, tree)
    assert (data.validation.tokens == 2).sum() == len(data.validation.ids)
    assert data.tokenizer.is_lossless


def lossy_folder(folder: Path) -> Path:
    """A tokenizer of small Latin letters, digits and spaces that drops all else: no bytes, no unknown token."""
    folder.mkdir()
    vocabulary = {token: number for number, token in enumerate(["<eos>", *"abcdefghijklmnopqrstuvwxyz0123456789 "])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    return folder


def test_a_tokenizer_that_cannot_spell_the_held_out_text_is_refused_above_a_limit(folder: Path) -> None:
    rows = [{**row, "text": row["text"] + " ДОМ"} for row in documents(200, "web")]
    write_jsonl(folder / "web.jsonl", rows)
    lossy_folder(folder / "tokenizer")
    with pytest.raises(UserError, match=r"cannot spell the held-out text .got '1\d.* % of it is lost, 5 % may be'"):
        with_tokenizer(folder)
    data = with_tokenizer(folder, max_lost_share=0.5)
    assert data.tokenizer.changed_documents == data.tokenizer.documents
    assert 0.1 < data.tokenizer.lost_share < 0.2
    assert not data.validation.num_bytes.any()
    (note,) = data.notes()
    assert "no bits per byte" in note
    assert "1" in note.partition(" %")[0][-4:]


def test_documents_without_tokens_are_dropped_and_counted(folder: Path) -> None:
    rows = documents(60, "made")
    for row in rows[::3]:
        row["text"] = "ДОМ ЛЕС МИР".replace(" ", "")
    write_jsonl(folder / "made.jsonl", rows)
    lossy_folder(folder / "tokenizer")
    data = with_tokenizer(folder)
    account = data.rows["made"]
    assert (account.no_tokens, account.used, account.read) == (20, 40, 60)
    assert account.used + sum(account.dropped.values()) == account.read
    assert data.sources["made"].segments[0].num_documents == 40
    assert data.tokenizer.is_lossless
    assert data.notes() == ["source made: 20 documents have no tokens and are dropped"]


def test_a_held_out_part_that_the_tokenizer_cannot_spell_at_all_is_refused(folder: Path) -> None:
    write_jsonl(folder / "web.jsonl", [{"id": str(i), "text": "Д" * (i + 1), "topic": "t"} for i in range(100)])
    lossy_folder(folder / "tokenizer")
    with pytest.raises(UserError, match="can spell no document of the held-out part"):
        with_tokenizer(folder, max_lost_share=1.0)


@pytest.mark.parametrize(
    ("text", "decoded", "num"), [("abc", "abc", 0), ("Abc", "abc", 1), ("aé", "a", 2), ("ab", "ba", 1), ("日本", "", 6)]
)
def test_lost_bytes_are_those_of_the_characters_that_do_not_come_back(text: str, decoded: str, num: int) -> None:
    assert lost_bytes(text, decoded) == num
