import numpy as np

from trainer.base.hashing import splitmix64


def test_the_mixed_words_are_those_of_splitmix64() -> None:
    """First outputs of the reference generator seeded with 0: the finalizer of multiples of its increment."""
    increments = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(increments).tolist() == expected
