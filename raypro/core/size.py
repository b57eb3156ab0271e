"""How large a model is."""

from torch import nn


def parameters(module: nn.Module) -> int:
    """Return the number of a module's weights, each once however often it is used; on torch's meta device none has to be there."""
    return sum(weight.numel() for weight in module.parameters())
