"""An even sample of a stream whose length nobody knows."""

from typing import Generic, TypeVar

T = TypeVar("T")


class EvenSample(Generic[T]):
    """Items in even distances, at most ``most`` of them: every k-th, where k doubles when there are too many."""

    def __init__(self, most: int) -> None:
        self.items: list[T] = []
        self._most, self._number, self._stride = most, 0, 1

    def add(self, item: T) -> None:
        """Takes or leaves the next item of the stream."""
        if self._number % self._stride == 0:
            self.items.append(item)
            if len(self.items) > self._most:
                self.items, self._stride = self.items[::2], 2 * self._stride
        self._number += 1
