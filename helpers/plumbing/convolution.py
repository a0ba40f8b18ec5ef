"""Convolutions to small maps as matrix products, for CPUs that are much faster at products than at such convolutions.

Unrolled into a row of k² C values for each position of the result, a convolution is one product (Chellapilla et al.,
*High Performance Convolutional Neural Networks for Document Processing*, 2006); so are its two gradients. Rows are up
to nine times as large as maps, so this pays for small maps only: results/BENCH.md has what was measured.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

LARGEST = 4  # height and width of the results


class SmallMapsAsProducts(TorchFunctionMode):
    """Within this context, convolutions to maps of at most 4x4 are computed as products in `dtype`, others as usual."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.conv2d and len(args) == 7 and _suits(*args):  # nn.Conv2d gives all seven by position
            maps, weight, _, (stride, _), *_ = args
            return ConvolutionAsProduct.apply(maps.to(self.dtype), weight.to(self.dtype), stride)
        return function(*args, **(kwargs or {}))


def _suits(maps: Tensor, weight: Tensor, bias, stride, padding, dilation, groups) -> bool:
    size = weight.shape[2]
    usual = bias is None and groups == 1 and (padding, dilation) == ((size // 2,) * 2, (1, 1))
    square = size % 2 == 1 and size == weight.shape[3] and stride in ((1, 1), (2, 2))
    return usual and square and max(maps.shape[2:]) <= LARGEST * stride[0]


class ConvolutionAsProduct(torch.autograd.Function):
    """Maps (N, C, H, W), weight (K, C, k, k) with an odd k and padding k // 2, to maps (N, K, ⌈H/stride⌉, ⌈W/stride⌉).

    All of them have the channels last in memory.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride = stride
        return _convolve(maps, weight, stride)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        maps, weight = ctx.saved_tensors
        stride, size = ctx.stride, weight.shape[2]
        of_maps = None
        if ctx.needs_input_grad[0] and stride == 1:  # a convolution too, with the kernels turned around
            of_maps = _convolve(gradient, weight.flip(2, 3).transpose(0, 1))
        elif ctx.needs_input_grad[0]:  # here PyTorch's is as fast
            of_maps = conv2d_input(maps.shape, weight, gradient, stride, size // 2)
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        of_weight = rows.T @ _neighbourhoods(maps, size, stride).flatten(0, 2)
        return of_maps, of_weight.view(len(weight), size, size, -1).permute(0, 3, 1, 2), None


def _convolve(maps: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    neighbourhoods = _neighbourhoods(maps, weight.shape[2], stride)
    rows = neighbourhoods.flatten(0, 2) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    return rows.view(*neighbourhoods.shape[:3], len(weight)).permute(0, 3, 1, 2)  # a process's share may have no maps


def _neighbourhoods(maps: Tensor, size: int, stride: int) -> Tensor:
    """(N, C, H, W) -> (N, ⌈H/stride⌉, ⌈W/stride⌉, size² C): what lies around each position, zeros beyond the border."""
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, *[size // 2] * 4))
    return padded.unfold(1, size, stride).unfold(2, size, stride).permute(0, 1, 2, 4, 5, 3).flatten(3)
