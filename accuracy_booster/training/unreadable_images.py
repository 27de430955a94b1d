"""Images that cannot be read: told, counted, and allowed up to `bad_images`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from accuracy_booster.errors import TrainingStopped


class UnreadableImages:
    """The images that a training could not read.

    Attributes:
        reasons: for each image ("SPLIT NUMBER"), why it could not be read. Checkpoints hold it.
    """

    def __init__(self, bad_images: int, say: Callable[[str], None], *, processes: int = 1):
        self.reasons: dict[str, str] = {}
        self._bad_images, self._say, self._processes = bad_images, say, processes

    def __len__(self) -> int:
        return len(self.reasons)

    def note(self, found: Mapping[int, str], split: str = "train") -> None:
        """Tell and count what is new among the images of a batch, {number: reason}.

        Raises:
            TrainingStopped: if a training of one process met more than `bad_images`.
        """
        for number, reason in found.items():
            key = f"{split} {number}"
            if key not in self.reasons:
                self.reasons[key] = reason
                self._say(f"skipped, {reason} ({len(self.reasons)} so far)")
        # several processes first add up their counts: one that stopped alone would keep the others
        # waiting
        if self._processes == 1:
            self.check(len(self.reasons))

    def check(self, count: float) -> None:
        """Raise TrainingStopped if all processes together met more than `bad_images`."""
        last = next(reversed(self.reasons.values()), "met by another process")
        _check(count, last, self._bad_images)


def check_readable(unreadable: Sequence[str], bad_images: int) -> None:
    """Check the images that a measurement could not read.

    Args:
        unreadable: for each of them, why.

    Raises:
        TrainingStopped: if there are more than `bad_images`.
    """
    if unreadable:
        _check(len(unreadable), unreadable[-1], bad_images)


def _check(count: float, last: str, bad_images: int) -> None:
    if count > bad_images:
        raise TrainingStopped(
            f"{count:.0f} image{'s'[: count != 1]} cannot be read, more than "
            f"bad_images={bad_images}; the last: {last}"
        )
