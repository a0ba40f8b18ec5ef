import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from helpers.models import CustomResNet, ResNet18, StandardizedConv2d, make_model
from helpers.recipes import RECIPES, changed, get_recipe


@pytest.fixture(scope="module")
def model() -> CustomResNet:
    """In evaluation mode, with BatchNorms whose scale, shift and statistics are not the initial 1, 0, 0, 1."""
    torch.manual_seed(0)
    model = CustomResNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.uniform_(-0.2, 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def by_hand(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The assignment's forward pass in evaluation mode, from the weights alone, in the order they come in."""
    convolutions = iter([value for value in weights.values() if value.dim() == 4])
    norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    parts = ("running_mean", "running_var", "weight", "bias")
    norms = iter([[weights[norm + part].view(1, -1, 1, 1) for part in parts] for norm in norms])

    def step(x, pool=False):
        x = F.conv2d(x, next(convolutions), padding=1)
        x = F.max_pool2d(x, 2) if pool else x
        mean, var, scale, shift = next(norms)
        return torch.clamp((x - mean) / torch.sqrt(var + 1e-5) * scale + shift, min=0)

    x = step(x)
    x = step(x, pool=True)
    x = x + step(step(x))
    x = step(x, pool=True)
    x = step(x, pool=True)
    x = x + step(step(x))
    return x.amax(dim=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


def test_forward_pass_equals_the_one_written_out_by_hand(model, images):
    with torch.no_grad():
        torch.testing.assert_close(model(images), by_hand(model.state_dict(), images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [0.125, 2.0])
def test_logit_scale_multiplies_the_logits(model, images, scale):
    scaled = CustomResNet(logit_scale=scale).eval()
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(scaled(images), model(images) * scale)


def test_make_model_takes_the_options_of_the_recipe():
    recipe = dataclasses.replace(RECIPES["custom_resnet"], logit_scale=0.5, fc_bias=False)
    model = make_model(recipe, 7)
    assert model.logit_scale == 0.5
    assert model.fc.bias is None
    assert model.fc.out_features == 7


# --- ResNet18


def test_zero_initialised_blocks_start_as_the_identity():
    torch.manual_seed(0)
    block = ResNet18(norm="layer", zero_init_residual=True).layer1[0]
    x = torch.rand(2, 64, 8, 8)
    torch.testing.assert_close(block(x), x)
    assert not torch.allclose(ResNet18(norm="layer").layer1[0](x), x)


def test_standardized_filters_have_mean_0_and_the_papers_variance_over_their_size():
    torch.manual_seed(0)
    layer = StandardizedConv2d(6, 4, 3, bias=False)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.02, 0.1, 1.0, 20.0])[:, None, None, None]).add_(0.5)
    raw = layer.weight.detach().double().numpy()
    standardized = np.stack([(filters - filters.mean()) / filters.std() for filters in raw]) / np.sqrt(6 * 3 * 3)
    x = torch.randn(2, 6, 5, 5)
    expected = F.conv2d(x.double(), torch.from_numpy(standardized))
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-4, rtol=1e-3)


def test_weight_standardization_changes_every_convolution_and_no_parameter():
    torch.manual_seed(0)
    recipe = changed(get_recipe("resnet18_layernorm"), {"weight_standardization": True})
    model, usual = make_model(recipe, 10), ResNet18(norm="layer")
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert kinds == 20 * [StandardizedConv2d]  # stem, two in each of 8 blocks, 3 shortcuts
    usual.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(model(x), usual(x), atol=0.01)


def test_resnet18_is_torchvisions_but_for_the_stem():
    """Their 7x7 stem and first pooling replaced, ours computes the same with the same weights."""
    torch.manual_seed(0)
    ours, theirs = ResNet18().eval(), torchvision.models.resnet18(num_classes=10).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    for norm in (module for module in ours.modules() if isinstance(module, nn.BatchNorm2d)):  # none the identity
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(values, 0.1, 0.9)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_channels_are_dropped_where_the_recipe_says():
    values = {"dropout_stem": 0.1, "dropout": 0.2, "dropout_norm2": 0.3, "dropout_shortcut": 0.4}
    model = make_model(changed(get_recipe("resnet18_batchnorm"), values), 10)
    block = model.layer2[0]
    places = (model.stem[-1], block.dropout1, block.dropout2, block.shortcut[-1])
    assert [place.p for place in places] == list(values.values())
