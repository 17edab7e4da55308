"""Grad-CAM against the grad-cam package, and what it refuses."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from conftest import PEERS, TINY, create
from foveal._errors import UserError
from foveal.analysis import Setting, gradcam, load_subject
from foveal.analysis.gradcam import cams, default_layer


def tokens(x):
    return x[:, 1:].transpose(1, 2).unflatten(2, (14, 14))


def channels_last(x):
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "layer", "to_map", "size", "class_index"),
    [
        ("resnet18", "layer4", None, 128, None),
        ("resnet18", "layer4", None, 128, 7),
        ("resnet18", "layer2.0.conv1", None, 128, None),
        ("test_emsnet", "stages.2", None, 128, 7),
        ("test_mat", "stages.2", None, 128, None),
        ("test_mat", "stages.2.blocks.0", channels_last, 128, 7),
        ("test_partialformer", "stages.3", None, 128, None),
        ("deit_tiny_patch16_224", "blocks.11.norm1", tokens, 224, None),
        ("swin_tiny_patch4_window7_224", "layers.3", channels_last, 224, None),
    ],
)
def test_same_as_the_package(name, layer, to_map, size, class_index):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = create(name)
    images = torch.randn(2, 3, size, size)
    targets = None if class_index is None else [ClassifierOutputTarget(class_index)] * 2
    with GradCAM(model, [model.get_submodule(layer)], to_map) as oracle:
        expected = oracle(images, targets)
    labels, maps = cams(load_subject(model, Setting()), layer, images, class_index)
    with torch.no_grad():
        assert labels.tolist() == (model(images).argmax(dim=1).tolist() if class_index is None else [7, 7])
    assert maps.shape == (2, size, size)
    assert expected.max(axis=(1, 2)).max() > 0.99
    assert np.abs(maps.numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("name", TINY)
def test_default_layer_of_ours_is_the_last_stage(name):
    assert default_layer(load_subject(name, Setting())) == "stages.3"


@pytest.mark.parametrize("name", PEERS)
def test_every_model(name):
    found = gradcam([name], setting=Setting(num_images=1, size=(64,)))
    assert found.maps[name].max() == 1
    assert found.maps[name].min() == 0


def test_models_side_by_side(tmp_path):
    found = gradcam(TINY, setting=Setting(num_images=3, batch=2, size=(64, 96)), class_index=5)
    assert all(maps.shape == (3, 64, 96) for maps in found.maps.values())
    assert all((classes == 5).all() for classes in found.classes.values())
    data = found.data()
    assert data[f"{TINY[0]}/image"].shape == (3, 64, 96, 3)
    assert len(found.rows()) == len(TINY)
    assert [file.name for file in found.write(tmp_path)] == ["gradcam.npz", "gradcam.png", "gradcam.svg"]
    whole = gradcam(TINY, setting=Setting(num_images=3, size=(64, 96)), class_index=5)
    for name in TINY:
        assert np.allclose(whole.maps[name], found.maps[name], atol=1e-3)


def test_a_layer_that_is_called_for_the_logits_alone():
    model = timm.create_model("test_mat")
    with pytest.raises(UserError, match=r"gives \[1, 1000\], which is no map"):
        cams(
            load_subject(model, Setting()),
            "head",
            torch.randn(1, 3, 64, 64),
        )


def test_layers_that_the_class_does_not_depend_on():
    subject = load_subject("deit_tiny_patch16_224", Setting())
    with pytest.raises(UserError, match=r"map of layer blocks\.11; name an earlier one"):
        cams(subject, "blocks.11", torch.randn(1, 3, 224, 224))


def test_layers_that_do_not_exist():
    with pytest.raises(UserError, match=r"unknown layer 'stage.3'; nearest: .*stages\.3"):
        gradcam(["test_mat"], layer="stage.3", setting=Setting(num_images=1))


@pytest.mark.parametrize("class_index", [-1, 1000])
def test_classes_that_do_not_exist(class_index):
    with pytest.raises(UserError, match=f"test_mat has the classes 0 to 999, got {class_index}"):
        gradcam(["test_mat"], class_index=class_index, setting=Setting(num_images=1))


def test_models_without_classes():
    model = timm.create_model("test_mat", num_classes=0)
    with pytest.raises(UserError, match="no classifier"):
        gradcam([model], setting=Setting(num_images=1))


def test_models_of_maps():
    with pytest.raises(UserError, match="no classifier"):
        cams(load_subject(nn.Sequential(nn.Conv2d(3, 4, 3)), Setting()), "0", torch.randn(1, 3, 8, 8))
