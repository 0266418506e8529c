"""What weights and modules are, by their shape and class."""

from math import prod

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def drops_units(net: nn.Module) -> bool:
    """Return whether a net has dropout, so that its outputs are random in training."""
    return any(
        (isinstance(module, DROPOUTS) and module.p > 0) or (isinstance(module, nn.RNNBase) and module.dropout > 0)
        for module in net.modules()
    )


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the numbers of inputs and outputs: a convolution's inputs are its whole window, a vector has one."""
    longer = [side for side in shape if side != 1]
    outputs = longer[0] if len(longer) > 1 else prod(shape)
    return prod(longer[1:]), outputs
