"""Molecules of another stream beside those of the first, every so often."""

from collections.abc import Mapping
from typing import Any

import torch

from basinet.data.stream.loader import Part, Stream


class ReplayStream(Stream):
    """The batches of a stream, and with every ``every``-th of them one of another stream, whose molecules are marked.

    The sources of the first stream keep their names (one without a name is called ``data``).

    Args:
        stream: gives a batch every time.
        replay: gives one every ``every``-th time, from the first on.
        every: at least 1.
        flag: set on the molecules of ``replay``.
    """

    def __init__(self, stream: Stream, replay: Stream, *, every: int, flag: str) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.sources = (*(name or "data" for name in stream.sources), *replay.sources)
        self._stream, self._replay, self._every, self._flag = stream, replay, every, flag
        self._n_given = 0

    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next batch, and of one to replay where it is its turn."""
        parts = self._stream.next_parts()
        if self._n_given % self._every == 0:
            parts += [self._marked(part) for part in self._replay.next_parts()]
        self._n_given += 1
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Return where both streams are."""
        return {
            "n_given": self._n_given,
            "every": self._every,
            "stream": self._stream.state_dict(),
            "replay": self._replay.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            ValueError: the state is of other data or another order of batches.
        """
        self.check_state(state, {"n_given", "stream", "replay"}, {"every": self._every})
        self._stream.load_state_dict(state["stream"])
        self._replay.load_state_dict(state["replay"])
        self._n_given = state["n_given"]

    def _marked(self, part: Part) -> Part:
        batch = part.batch
        flags = {**batch.flags, self._flag: torch.ones(batch.n_molecules, dtype=torch.bool)}
        return Part(len(self._stream.sources) + part.source, batch.replace(flags=flags))
