"""The heads behind a backbone: each method's projector and BYOL's predictors (specification 1.1, 1.6)."""

from collections.abc import Mapping

from torch import Tensor, nn


def mlp_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build a projector or a predictor of BYOL: linear with bias, batch norm, ReLU, linear without bias.

    Args:
        inputs: width of the incoming vectors.
        hidden: width of the hidden layer.
        outputs: width of the outgoing vectors.

    Returns:
        A module from (n, inputs) to (n, outputs), to be initialised before use.
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


def plain_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build MoCo v2's projector: linear, ReLU, linear, both with bias; arguments as :func:`mlp_head`."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def normed_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build SimCLR's projector: linear, batch norm, ReLU, linear, batch norm, the linear layers without bias."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
        nn.BatchNorm1d(outputs),
    )


PROJECTORS = {"byol": mlp_head, "moco": plain_head, "simclr": normed_head}
"""What builds the projector of each method."""


def load_projector(inputs: int, hidden: int, outputs: int, state: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the projector that some weights are of, and load them.

    Args:
        inputs: width of the incoming vectors.
        hidden: width of the hidden layer.
        outputs: width of the outgoing vectors.
        state: the weights by name, of any method's projector; the names tell which.

    Raises:
        ValueError: no projector has these names.
        RuntimeError: the widths differ.
    """
    for build in PROJECTORS.values():
        projector = build(inputs, hidden, outputs)
        if projector.state_dict().keys() == state.keys():
            projector.load_state_dict(dict(state))
            return projector
    raise ValueError(f"the weights {', '.join(state)} are of no projector known here")
