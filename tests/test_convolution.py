import torch
from torch.nn import functional as F

from helpers import convolution
from helpers.devices import Device
from helpers.models import make_model
from helpers.recipes import RECIPES


def test_it_is_the_convolution():
    torch.manual_seed(0)
    for count, height, width in ((2, 4, 4), (2, 3, 5), (2, 1, 2), (0, 4, 4)):
        maps, weight = torch.randn(count, 3, height, width, requires_grad=True), torch.randn(5, 3, 3, 3)
        made = convolution.Convolution3x3.apply(maps, weight.requires_grad_())
        torch.testing.assert_close(made, F.conv2d(maps, weight, padding=1))
        assert [g.shape for g in torch.autograd.grad(made.sum(), (maps, weight))] == [maps.shape, weight.shape]


def test_its_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution.Convolution3x3.apply, (maps, weight))
    assert torch.autograd.gradcheck(convolution.Convolution3x3.apply, (maps.detach(), weight))


def test_a_device_with_amx_computes_the_same_network_so(monkeypatch):
    taken = []
    apply = convolution.Convolution3x3.apply

    def noted(maps, weight):
        taken.append((*maps.shape[1:], maps.dtype))
        return apply(maps, weight)

    monkeypatch.setattr(convolution.Convolution3x3, "apply", noted)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    # R2 of the custom ResNet; of ResNet18's last layer all but the first convolution, which has stride 2
    for name, count in (("custom_resnet", 2), ("resnet18_layernorm", 3)):
        model = make_model(RECIPES[name], 10)
        found = []
        for amx in (False, True):
            taken.clear()
            model.zero_grad()
            device = Device(torch.device("cpu"), torch.bfloat16, "CPU", amx)
            with device.autocast():
                logits = device.place(model)(images)
            logits.float().logsumexp(dim=1).sum().backward()
            assert taken == [(512, 4, 4, torch.bfloat16)] * count * amx
            found.append((logits, *(p.grad for p in model.parameters())))
        for plain, product in zip(*found, strict=True):
            assert plain.dtype == product.dtype and plain.stride() == product.stride()
            error = (plain - product).float().norm() / plain.float().norm().clamp(min=1e-6)
            assert error < 0.03  # bfloat16 rounds to 1 part in 256
