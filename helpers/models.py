"""The networks of the course. Every network returns logits; the loss holds the softmax."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.recipes import Recipe


def conv_bn_relu(in_channels: int, out_channels: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution (stride 1, padding 1), 2x2 max-pooling if asked for, BatchNorm, ReLU.

    The convolution has no bias: the BatchNorm that follows subtracts it again.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ResidualLayer(nn.Module):
    """`X = conv-pool-BN-ReLU(input)`, then `X + ResBlock(X)`, where ResBlock is conv-BN-ReLU twice.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H/2, W/2).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.downsample = conv_bn_relu(in_channels, out_channels, pool=True)
        self.res_block = nn.Sequential(
            conv_bn_relu(out_channels, out_channels), conv_bn_relu(out_channels, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        return x + self.res_block(x)


class CustomResNet(nn.Module):
    """The assignment's network for 32x32 images, after David Page's DAWNBench ResNet (2018).

    prep 64 -> layer1 128 with a residual block -> layer2 256 -> layer3 512 with a residual block
    -> 4x4 max-pooling -> linear. 6,573,130 parameters for ten classes. Another `width` than 64 scales all channels.
    Shapes: (N, 3, 32, 32) -> logits (N, num_classes).

    `logit_scale` multiplies the logits. Page uses 0.125: the first logits are small, so that training starts near the
    loss of knowing nothing, ln 10 (notebook 01, section 6).
    """

    def __init__(self, num_classes: int = 10, *, width: int = 64, fc_bias: bool = True, logit_scale: float = 1.0):
        super().__init__()
        self.prep = conv_bn_relu(3, width)
        self.layer1 = ResidualLayer(width, 2 * width)
        self.layer2 = conv_bn_relu(2 * width, 4 * width, pool=True)
        self.layer3 = ResidualLayer(4 * width, 8 * width)
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(8 * width, num_classes, bias=fc_bias)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.fc(self.pool(x).flatten(1)) * self.logit_scale


# Layer normalisation over channels and positions of each image (Ba et al. 2016), with a scale and a
# shift for each channel, is GroupNorm with a single group (Wu & He 2018).
NORMS = {"batch": nn.BatchNorm2d, "layer": lambda channels: nn.GroupNorm(1, channels)}


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are standardized: mean 0, and variance 1 / (in_channels * kernel height * width).

    Qiao et al. (2019), *Weight Standardization*, later *Micro-Batch Training with Batch-Channel Normalization and
    Weight Standardization*.

    It is made for norms that do not look at the batch: what all images have in common, which they leave in every
    channel, hardly passes a filter of mean 0. The paper's variance is 1. The norm that follows cancels the
    difference; this one keeps the outputs about as large as the inputs, far within what float16 holds.
    """

    def forward(self, x: Tensor) -> Tensor:
        filters = F.layer_norm(self.weight, self.weight.shape[1:], eps=1e-10) / self.weight[0].numel() ** 0.5
        return self._conv_forward(x, filters, self.bias)


class BasicBlock(nn.Module):
    """`ReLU(X + conv-norm(ReLU(conv-norm(X))))`, both convolutions 3x3 (He et al. 2015, figure 5 left).

    Where stride or channels change, X passes a 1x1 convolution and a norm first.
    `conv` is the class of the convolutions; `dropouts` are the shares of channels dropped after the first ReLU, the
    second norm and the shortcut's norm.
    Shapes: (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        norm: str,
        conv: type[nn.Conv2d],
        dropouts: tuple[float, float, float],
    ):
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = NORMS[norm](out_channels)
        self.dropout1 = nn.Dropout2d(dropouts[0])
        self.conv2 = conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = NORMS[norm](out_channels)
        self.dropout2 = nn.Dropout2d(dropouts[1])
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                conv(in_channels, out_channels, 1, stride, bias=False),
                NORMS[norm](out_channels),
                nn.Dropout2d(dropouts[2]),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout1(torch.relu(self.norm1(self.conv1(x))))
        out = self.dropout2(self.norm2(self.conv2(out)))
        return torch.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet18 (He et al. 2015) for 32x32 images: a 3x3 stem with neither stride nor pooling, maps of 32, 16, 8, 4.

    `norm` is "batch" or "layer"; nothing else differs: 11,173,962 parameters for ten classes either way.
    `weight_standardization` makes every convolution a StandardizedConv2d, with the same parameters.
    `zero_init_residual` sets the last scale of each block to zero, so that the block starts as its
    shortcut alone (Goyal et al. 2017, section 5.1).
    `dropouts` are the shares of channels dropped after the stem, and at the three places of each block.
    Another `width` than 64 scales all channels.
    Shapes: (N, 3, 32, 32) -> logits (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        width: int = 64,
        norm: str = "batch",
        weight_standardization: bool = False,
        dropouts: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        zero_init_residual: bool = False,
    ):
        super().__init__()
        conv = StandardizedConv2d if weight_standardization else nn.Conv2d
        block = partial(BasicBlock, norm=norm, conv=conv, dropouts=dropouts[1:])
        self.stem = nn.Sequential(
            conv(3, width, 3, padding=1, bias=False),
            NORMS[norm](width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropouts[0]),
        )
        self.layer1 = nn.Sequential(block(width, width, 1), block(width, width, 1))
        self.layer2 = nn.Sequential(block(width, 2 * width, 2), block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(block(2 * width, 4 * width, 2), block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(block(4 * width, 8 * width, 2), block(8 * width, 8 * width, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.pool(x).flatten(1))


def make_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network with freshly drawn weights."""
    if recipe.model == "resnet18":
        return ResNet18(
            num_classes,
            width=recipe.width,
            norm=recipe.norm,
            weight_standardization=recipe.weight_standardization,
            dropouts=(recipe.dropout_stem, recipe.dropout, recipe.dropout_norm2, recipe.dropout_shortcut),
            zero_init_residual=recipe.zero_init_residual,
        )
    return CustomResNet(num_classes, width=recipe.width, fc_bias=recipe.fc_bias, logit_scale=recipe.logit_scale)
