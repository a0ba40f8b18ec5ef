"""The networks of the course. Every network returns logits; the loss holds the softmax."""

from torch import Tensor, nn

from helpers.checkpoints import load_checkpoint
from helpers.errors import CourseError
from helpers.recipes import Recipe
from helpers.runs import Run


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
    -> 4x4 max-pooling -> linear. 6,573,130 parameters for ten classes.
    Shapes: (N, 3, 32, 32) -> logits (N, num_classes).

    `logit_scale` multiplies the logits. Page uses 0.125: it tames the classifier's large first
    gradients, so that training stays stable at the learning rates the range test finds.
    """

    def __init__(self, num_classes: int = 10, *, fc_bias: bool = True, logit_scale: float = 1.0):
        super().__init__()
        self.prep = conv_bn_relu(3, 64)
        self.layer1 = ResidualLayer(64, 128)
        self.layer2 = conv_bn_relu(128, 256, pool=True)
        self.layer3 = ResidualLayer(256, 512)
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(512, num_classes, bias=fc_bias)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.fc(self.pool(x).flatten(1)) * self.logit_scale


def make_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network with freshly drawn weights."""
    return CustomResNet(num_classes, fc_bias=recipe.fc_bias, logit_scale=recipe.logit_scale)


def load_model(run: Run) -> nn.Module:
    """The network that a run reports, from its `best.pt`, on the CPU, in evaluation mode. Raises CourseError."""
    path = run.folder / "best.pt"
    if not path.exists():
        raise CourseError(f"{path} is missing: finish the run, with the same command or notebook that began it.")
    model = make_model(run.recipe, len(run.config["data"]["classes"]))
    try:
        model.load_state_dict(load_checkpoint(path)["model"])
    except RuntimeError as error:
        raise CourseError(f"{path} belongs to another network ({str(error).splitlines()[0]}).") from error
    return model.eval()
