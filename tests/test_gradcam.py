"""GradCAM against its formula, and the network left as it was."""

import copy
from collections import OrderedDict
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from helpers.gradcam import heatmaps, map_sizes, pick_layer
from helpers.models import make_model
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES


def small_network():
    """Two blocks, of 8x8 and 4x4 maps, and a linear layer."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.ReLU())
    net = OrderedDict(first=first, second=second, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(5, 4))
    return nn.Sequential(net).eval()


def by_hand(network, image, label, block):
    """Selvaraju et al. 2017, equations 1 and 2; then enlarged, and scaled to the range from 0 to 1."""
    kept = []
    handle = getattr(network, block).register_forward_hook(lambda module, given, output: kept.append(output))
    logits = network(image[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, label], kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * kept[0]).sum(dim=1)[0].relu().detach().numpy()
    heat = cv2.resize(heat, image.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
    return (heat - heat.min()) / (heat.max() - heat.min())


@pytest.mark.parametrize("block", ["first", "second"])
def test_heatmap_is_the_papers(block):
    network, images = small_network(), torch.randn(6, 3, 32, 32)
    labels = [0, 1, 2, 3, 0, 1]
    maps = heatmaps(network, images, labels, block)
    expected = [by_hand(network, image, label, block) for image, label in zip(images, labels, strict=True)]
    compared = [k for k, heat in enumerate(expected) if np.isfinite(heat).all()]  # where anything speaks for the class
    assert len(compared) >= 3
    for k in compared:
        np.testing.assert_allclose(maps[k], expected[k], atol=1e-4)


@pytest.mark.parametrize("recipe", ["custom_resnet", "resnet18_batchnorm", "resnet18_layernorm"])
def test_default_layer_has_maps_of_8x8_in_every_network(recipe):
    model = make_model(replace(RECIPES[recipe], width=8), 10)
    name, size = pick_layer(model)
    assert size == (8, 8)
    assert (name, (4, 4)) not in map_sizes(model).items() and (4, 4) in map_sizes(model).values()
    maps = heatmaps(model, torch.randn(2, 3, 32, 32), [1, 2])
    assert maps.shape == (2, 32, 32) and maps.min() >= 0 and maps.max() <= 1


def test_layers_are_found_at_any_depth():
    mobilenet = torchvision.models.mobilenet_v2(num_classes=10).eval()
    name, size = pick_layer(mobilenet)
    assert name == "features.3" and size == (8, 8)  # strides of 2 at 0, 2 and 4: of 32 pixels 8 are left before 4
    assert heatmaps(mobilenet, torch.randn(1, 3, 32, 32), [3]).shape == (1, 32, 32)
    assert list(map_sizes(mobilenet))[:2] == ["features.0", "features.1"]
    wrapped = nn.Sequential(nn.Sequential(small_network()))
    assert pick_layer(wrapped) == ("0.0.first", (8, 8))
    assert pick_layer(small_network(), "first.0") == ("first.0", (8, 8))  # inside a block, asked for by name
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(CourseError, match="choose one of none"):
        pick_layer(flat)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["resnet18_batchnorm", "resnet18_layernorm"])
def test_model_is_left_as_it_was(recipe, training):
    model = make_model(replace(RECIPES[recipe], width=8), 10).train(training)
    hook = model.layer3.register_forward_hook(lambda module, given, output: None)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    heatmaps(model, torch.randn(2, 3, 32, 32), [0, 1])
    assert model.training == training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert [key for module in model.modules() for key in module._forward_hooks] == [hook.id]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_and_images_of_low_precision_are_explained_in_float32(dtype):
    network, images = small_network(), torch.randn(2, 3, 32, 32)
    low = heatmaps(copy.deepcopy(network).to(dtype), images.to(dtype), [0, 1], "first")
    np.testing.assert_allclose(low, heatmaps(network, images, [0, 1], "first"), atol=0.1)


def test_frozen_compiled_and_inference_mode_are_no_hindrance():
    network, images = small_network(), torch.randn(2, 3, 32, 32)
    expected = heatmaps(network, images, [0, 1], "first")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(heatmaps(network, images.clone(), [0, 1], "first"), expected)
    np.testing.assert_array_equal(heatmaps(network.requires_grad_(False), images, [0, 1], "first"), expected)
    np.testing.assert_array_equal(heatmaps(torch.compile(network), images, [0, 1], "first"), expected)


def test_an_unknown_class_is_no_silent_nothing():
    with pytest.raises(IndexError):
        heatmaps(small_network(), torch.randn(1, 3, 32, 32), [99], "first")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layer": "layer7"}, r"no layer 'layer7' with maps; choose one of first \(8x8\), second \(4x4\)"),
        ({"layer": "pool"}, "no layer 'pool' with maps"),
        ({"classes": [0]}, "2 images need as many classes to explain, not 1"),
    ],
)
def test_bad_arguments_get_a_sentence(arguments, sentence):
    with pytest.raises(CourseError, match=sentence):
        heatmaps(small_network(), torch.randn(2, 3, 32, 32), **{"classes": [0, 1]} | arguments)
