from pathlib import Path

import pytest

from benchmarks.prepare_memory import run


@pytest.mark.slow
def test_a_large_source_is_prepared_and_read_in_little_memory(tmp_path: Path) -> None:
    figures = run(tmp_path, 30)
    assert figures["source_megabytes"] >= 30
    assert figures["above_imports_megabytes"] < 300  # 1,500 is promised for 4 GB; what grows with the source is on disk
