from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.data import mapped
from trainer.data.documents import Document
from trainer.data.packing import SegmentWriter
from trainer.data.store import PreparedSegment

END = 0
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def packed(
    folder: Path, batches: list[list[int]], sequence_length: int, dtype: Any = np.uint16
) -> tuple[PreparedSegment, NDArray[Any]]:
    """A segment of documents with these lengths (end included), and the token stream that went in."""
    writer = SegmentWriter(folder, sequence_length, END, np.dtype(dtype))
    stream: list[NDArray[Any]] = []
    number = 0
    for batch in batches:
        ids = []
        for length in batch:
            number += 1
            ids.append(np.array([1 + (number * 37 + place) % 5000 for place in range(length - 1)] + [END], dtype=dtype))
        described = [
            Document(
                text="",
                num_bytes=3,
                id=f"d{number - len(batch) + i}",
                slice=f"s{i % 2}",
                file="f",
                line=i,
                part="train",
            )
            for i in range(len(batch))
        ]
        flat = np.concatenate(ids) if ids else np.zeros(0, dtype)
        writer.append(described, flat, np.array(batch, dtype=np.int64))
        stream.append(flat)
    return writer.close(), np.concatenate(stream)


@given(batches=st.lists(lengths, min_size=1, max_size=4), sequence_length=st.integers(2, 33))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_token_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], sequence_length: int
) -> None:
    segment, stream = packed(tmp_path_factory.mktemp("s") / "source", batches, sequence_length)
    everything = np.arange(segment.num_samples)
    samples = segment.gather(everything)
    valid = segment.valid_tokens(everything)
    assert np.issubdtype(samples.dtype, np.integer)
    assert samples.shape == (-(-len(stream) // sequence_length), sequence_length)
    assert valid[:-1].tolist() == [sequence_length] * (segment.num_samples - 1)
    assert valid.sum() == len(stream) == segment.num_tokens == sum(segment.slice_tokens.values())
    assert samples.ravel()[: len(stream)].tolist() == stream.tolist()
    assert (samples.ravel()[len(stream) :] == END).all()


@given(batches=st.lists(lengths, min_size=1, max_size=4), sequence_length=st.integers(2, 33))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_documents_of_the_samples_are_exactly_the_documents(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], sequence_length: int
) -> None:
    segment, stream = packed(tmp_path_factory.mktemp("s") / "source", batches, sequence_length)
    pieces: dict[int, list[int]] = {}
    for sample in range(segment.num_samples):
        row = segment.gather(np.array([sample]))[0]
        at = 0
        for ref in segment.documents(sample):
            assert ref.start == at < ref.end  # they follow each other without a gap
            at = ref.end
            assert ref.id == segment.describe(ref.document)["id"] == f"d{ref.document}"
            pieces.setdefault(ref.document, []).extend(row[ref.start : ref.end].tolist())
        assert at == segment.valid_tokens(np.array([sample]))[0]
    sizes = [length for batch in batches for length in batch]
    ends = np.cumsum(sizes)
    assert pieces == {i: stream[ends[i] - sizes[i] : ends[i]].tolist() for i in range(len(sizes))}
    assert all(segment.document_tokens(i).tolist() == pieces[i][:-1] for i in pieces)


def test_a_sample_outside_the_segment_is_an_error(tmp_path: Path) -> None:
    segment, _ = packed(tmp_path / "s", [[5]], 4)
    with pytest.raises(IndexError, match=r"0\.\.1, got 2"):
        segment.documents(2)


def test_large_ids_need_and_get_four_bytes(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "s", 4, 70_000, np.dtype(np.uint32))
    document = Document(text="", num_bytes=1, id="a", slice="all", file="f", line=1, part="train")
    writer.append([document], np.array([65_536, 70_000], dtype=np.uint32), np.array([2]))
    assert writer.close().gather(np.array([0])).tolist() == [[65_536, 70_000, 70_000, 70_000]]


def test_pages_are_given_back_without_changing_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment, _ = packed(tmp_path / "s", [[700] * 50], 64)
    order = np.random.default_rng(0).permutation(segment.num_samples)
    expected = segment.gather(order)
    monkeypatch.setattr(mapped, "_RESIDENT_BYTES", 1 << 12)
    again = PreparedSegment(**{field: getattr(segment, field) for field in segment.__dataclass_fields__})
    assert all((again.gather(order[[i]]) == expected[[i]]).all() for i in range(len(order)))


def test_the_largest_id_of_all_batches_is_kept(tmp_path: Path) -> None:
    segment, stream = packed(tmp_path / "s", [[3, 9], [40], [2]], 4)
    assert segment.largest_id == stream.max() > END


def test_content_decides_the_segments_fingerprint(tmp_path: Path) -> None:
    first, _ = packed(tmp_path / "a", [[5, 6], [7]], 4)
    same, _ = packed(tmp_path / "b", [[5, 6], [7]], 4)
    other, _ = packed(tmp_path / "c", [[5, 7], [6]], 4)
    assert first.fingerprint == same.fingerprint != other.fingerprint
