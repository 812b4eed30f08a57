"""The two-layer heads behind a backbone: the projector and the predictors (specification 1.1)."""

from torch import nn


def mlp_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build a projector or a predictor: linear with bias, batch norm, ReLU, linear without bias.

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
