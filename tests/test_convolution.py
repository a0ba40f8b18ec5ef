import pytest
import torch
from torch.nn import functional as F

from helpers.models import make_model
from helpers.plumbing import convolution
from helpers.plumbing.devices import Device
from helpers.recipes import RECIPES


def test_it_is_the_convolution():
    torch.manual_seed(0)
    for count, height, width, size, stride in (
        (2, 4, 4, 3, 1),
        (2, 3, 5, 3, 1),
        (2, 1, 2, 3, 1),
        (0, 4, 4, 3, 1),
        (2, 8, 8, 3, 2),
        (2, 7, 6, 3, 2),
        (2, 7, 6, 1, 2),
        (2, 4, 3, 1, 1),
        (2, 5, 4, 5, 2),
    ):
        maps, weight = torch.randn(count, 3, height, width, requires_grad=True), torch.randn(5, 3, size, size)
        made = convolution.ConvolutionAsProduct.apply(maps, weight.requires_grad_(), stride)
        torch.testing.assert_close(made, F.conv2d(maps, weight, stride=stride, padding=size // 2))
        assert [g.shape for g in torch.autograd.grad(made.sum(), (maps, weight))] == [maps.shape, weight.shape]


@pytest.mark.parametrize(
    ("size", "stride", "height", "width"), [(3, 1, 4, 4), (3, 2, 8, 8), (3, 2, 5, 6), (1, 2, 6, 5)]
)
def test_its_gradients_are_those_of_finite_differences(size, stride, height, width):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, size, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution.ConvolutionAsProduct.apply, (maps, weight, stride))
    assert torch.autograd.gradcheck(convolution.ConvolutionAsProduct.apply, (maps.detach(), weight, stride))


def test_other_convolutions_are_left_to_pytorch():
    maps, weight = torch.randn(2, 4, 4, 4), torch.randn(4, 4, 3, 3)
    with convolution.SmallMapsAsProducts(torch.float32):
        for options in ({"dilation": 2, "padding": 2}, {"padding": 0}, {"groups": 2, "padding": 1}, {"stride": 3}):
            conv = torch.nn.Conv2d(4, 4, 3, bias=False, **options)
            assert type(conv(maps).grad_fn).__name__ == "ConvolutionBackward0"
        assert type(F.conv2d(maps, weight.requires_grad_(), padding=1).grad_fn).__name__ == "ConvolutionBackward0"


def test_a_device_with_amx_computes_the_same_network_so(monkeypatch):
    taken = []
    apply = convolution.ConvolutionAsProduct.apply

    def noted(maps, weight, stride):
        taken.append((*maps.shape[1:], len(weight), weight.shape[2], stride, maps.dtype))
        return apply(maps, weight, stride)

    monkeypatch.setattr(convolution.ConvolutionAsProduct, "apply", noted)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    inner = (512, 4, 4, 512, 3, 1, torch.bfloat16)
    first, shortcut = ((256, 8, 8, 512, size, 2, torch.bfloat16) for size in (3, 1))
    # R2 of the custom ResNet; all of ResNet18's last layer
    for name, convolutions in (
        ("custom_resnet", [inner] * 2),
        ("resnet18_layernorm", [first, inner, shortcut, inner, inner]),
    ):
        model = make_model(RECIPES[name], 10)
        found = []
        for amx in (False, True):
            taken.clear()
            model.zero_grad()
            device = Device(torch.device("cpu"), torch.bfloat16, "CPU", amx)
            with device.autocast():
                logits = device.place(model)(images)
            logits.float().logsumexp(dim=1).sum().backward()
            assert taken == convolutions * amx
            found.append((logits, *(p.grad for p in model.parameters())))
        for plain, product in zip(*found, strict=True):
            assert plain.dtype == product.dtype and plain.stride() == product.stride()
            error = (plain - product).float().norm() / plain.float().norm().clamp(min=1e-6)
            assert error < 0.03  # bfloat16 rounds to 1 part in 256
