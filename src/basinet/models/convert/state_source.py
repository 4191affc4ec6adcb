"""A published state dict, read strictly: every tensor is used or named as ignored."""

from collections.abc import Mapping

from torch import Tensor

from basinet.models.model import Model


class StateSource:
    """A state dict that remembers what was taken from it.

    Args:
        state: tensors by name.
        ignored: names of tensors that may be there and are not used.
    """

    def __init__(self, state: Mapping[str, Tensor], ignored: frozenset[str] = frozenset()) -> None:
        self._state = dict(state)
        self._left = set(state) - ignored

    def take(self, key: str) -> Tensor:
        """Return the named tensor."""
        if key not in self._state:
            raise ValueError(f"the checkpoint has no tensor {key}; is it of another network?")
        self._left.discard(key)
        return self._state[key]

    def has(self, key: str) -> bool:
        """Return whether there is a tensor of that name."""
        return key in self._state

    def take_linear(self, old: str, new: str) -> dict[str, Tensor]:
        """Return weight and bias of a linear map under their new names."""
        return {f"{new}.{kind}": self.take(f"{old}.{kind}") for kind in ("weight", "bias")}

    def finish(self) -> None:
        """Raise if anything was left over."""
        if self._left:
            raise ValueError(f"the checkpoint has tensors this network does not use: {', '.join(sorted(self._left))}")


def load_renamed(model: Model, renamed: Mapping[str, Tensor]) -> None:
    """Put tensors into a model, every one of the right shape.

    Raises:
        ValueError: a shape differs: the settings are those of a network of another size.
    """
    wrong = [f"{k} {list(v.shape)}" for k, v in renamed.items() if v.shape != model.state_dict()[k].shape]
    if wrong:
        raise ValueError(f"the checkpoint is of another size than the settings say: {', '.join(wrong)}")
    model.load_state_dict(renamed)
