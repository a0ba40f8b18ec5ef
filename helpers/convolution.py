"""Convolutions of 4x4 maps as matrix products, for CPUs that are much faster at products than at such convolutions.

Unrolled into a row of 9 C values for each position, a 3x3 convolution is one product (Chellapilla et al., *High
Performance Convolutional Neural Networks for Document Processing*, 2006); so are its two gradients. Rows are nine times
as large as maps, so this pays for small maps only. On two cores with AMX, 128 maps of 4x4, 512 to 512 channels,
bfloat16: forward 12 ms by PyTorch's convolution and 6 ms so, the gradient of the weights 42 and 10 ms, of the maps
16 and 7 ms; with 8x8 maps it is slower.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SmallMapsAsProducts(TorchFunctionMode):
    """Within this context, 3x3 convolutions of 4x4 maps are computed as products in `dtype`, all others as usual."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.conv2d and _suits(*args, **kwargs):
            maps, weight = args[:2]
            return Convolution3x3.apply(maps.to(self.dtype), weight.to(self.dtype))
        return function(*args, **kwargs)


def _suits(maps: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    usual = bias is None and groups == 1 and (stride, padding, dilation) == ((1, 1),) * 3
    return usual and weight.shape[2:] == (3, 3) and maps.shape[2:] == (4, 4)


class Convolution3x3(torch.autograd.Function):
    """Stride 1, padding 1: maps (N, C, H, W) and weight (K, C, 3, 3) to (N, K, H, W), all channels last in memory."""

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return _convolve(maps, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        maps, weight = ctx.saved_tensors
        of_maps = None
        if ctx.needs_input_grad[0]:  # a convolution too, with the kernels turned around
            of_maps = _convolve(gradient, weight.flip(2, 3).transpose(0, 1))
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        of_weight = (rows.T @ _neighbourhoods(maps)).view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        return of_maps, of_weight


def _convolve(maps: Tensor, weight: Tensor) -> Tensor:
    count, _, height, width = maps.shape
    rows = _neighbourhoods(maps) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    return rows.view(count, height, width, len(weight)).permute(0, 3, 1, 2)  # a process's share may have no maps


def _neighbourhoods(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, 9 C): for every position the values around it, zeros beyond the border."""
    height, width = maps.shape[2:]
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.cat(shifted, dim=3).flatten(0, 2)
