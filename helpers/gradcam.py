"""Where a network looked: GradCAM heatmaps (Selvaraju et al. 2017), computed by pytorch-grad-cam."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from helpers.plumbing.errors import CourseError
from helpers.plumbing.image_sources import SIZE

COARSEST = 5  # positions a side: smaller maps say little more than "somewhere"


def map_sizes(model: nn.Module, every: bool = False) -> dict[str, tuple[int, int]]:
    """Height and width of the maps that each block of a network makes of a 32x32 image, in the order of their making.

    Blocks are the network's children, in torchvision's networks those of `features`; with `every`, or if no block has
    maps of 5x5, all modules. Those whose output has no positions left, such as the last pooling, are missing.
    """
    sizes, network = {}, _float32_copy(model)

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:] != (1, 1):
            sizes[name] = tuple(output.shape[2:])

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    with torch.no_grad():
        network(torch.zeros(1, 3, SIZE, SIZE, device=next(network.parameters()).device))
    sizes.pop("", None)
    blocks = {name for name in sizes if "." not in name.removeprefix("features.") and name != "features"}
    every = every or not any(min(sizes[name]) >= COARSEST for name in blocks)
    return {name: size for name, size in sizes.items() if every or name in blocks}


def pick_layer(model: nn.Module, name: str | None = None) -> tuple[str, tuple[int, int]]:
    """The module to explain, and the size of its maps: the one named, or the deepest block with maps of 5x5 or more.

    Deep layers know classes, but their maps are coarse, 4x4 in the last one of our networks, so it is the 8x8 before.
    Raises CourseError for an unknown name, or if there are no maps.
    """
    sizes = map_sizes(model)
    if name is None and sizes:
        fine = [block for block, size in sizes.items() if min(size) >= COARSEST]
        name = fine[-1] if fine else max(sizes, key=lambda block: min(sizes[block]))
    every = sizes if name in sizes else map_sizes(model, every=True)
    if name not in every:
        known = ", ".join(f"{block} ({height}x{width})" for block, (height, width) in sizes.items()) or "none"
        raise CourseError(f"The network has no layer {name or ''!r} with maps; choose one of {known}.")
    return name, every[name]


@torch.inference_mode(False)  # a copy made in inference mode could not be differentiated
def heatmaps(model: nn.Module, images: Tensor, classes: Sequence[int], layer: str | None = None) -> np.ndarray:
    """Map what speaks for class `classes[k]` in image k, as maps (N, H, W), each scaled to fill [0, 1].

    Where nothing speaks for the class, the map is zero. `images` (N, 3, H, W) are normalised as for the network. It
    works on a float32 copy in evaluation mode, without compilation: the model keeps its mode, gradients and hooks.
    Raises CourseError for an unknown layer, and for classes that are not one for each image.
    """
    if len(classes) != len(images):  # the library would answer with empty maps
        raise CourseError(f"{len(images)} images need as many classes to explain, not {len(classes)}.")
    network = _float32_copy(model).requires_grad_(False)  # gradients of maps are wanted, not of weights
    cam = GradCAM(network, [network.get_submodule(pick_layer(model, layer)[0])])
    images = images.detach().to(next(network.parameters()).device, torch.float32).clone().requires_grad_(True)
    try:  # as a context manager it would hide an IndexError
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            return cam(images, [ClassifierOutputTarget(int(label)) for label in classes])
    finally:
        cam.activations_and_grads.release()


def _float32_copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(getattr(model, "_orig_mod", model)).float().eval()
