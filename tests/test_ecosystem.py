"""Our models in the libraries that speak timm: timm's own checks, segmentation_models.pytorch, Hugging Face, open_clip.

docs/interop.md trains one family in each; here every family is tried.
"""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.models import create_feature_extractor
from timm.models._registry import _model_pretrained_cfgs
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    TimmBackbone,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from conftest import TINY, close, create

SEGMENTED = ["emsnet_tiny", "mat_2", "partialformer_b1"]


@pytest.mark.parametrize("name", TINY)
def test_timm_conventions(name):
    """The fast part of timm's tests/test_models.py; scripts/run_timm_tests.py runs the whole."""
    model = timm.create_model(name)
    cfg = model.default_cfg
    assert f"{name}.untrained" in _model_pretrained_cfgs
    names = dict(model.named_parameters())
    assert f"{cfg['first_conv']}.weight" in names
    assert f"{cfg['classifier']}.weight" in names
    size = cfg["input_size"]
    images = torch.randn(1, *size)
    with torch.inference_mode():
        features = model.forward_features(images)
        assert features.shape[-2:] == cfg["pool_size"]
        assert model(images).shape == (1, cfg["num_classes"])
    assert timm.list_models(name) == [name]
    assert timm.is_model(name)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), torch.nn.Identity)


@pytest.mark.parametrize("out_indices", [(3,), (0, 2), (-2, -1)])
def test_feature_levels_are_chosen(out_indices):
    for name in TINY:
        model = timm.create_model(name, features_only=True, out_indices=out_indices).eval()
        with torch.inference_mode():
            levels = model(torch.randn(1, 3, 64, 96))
        assert len(levels) == len(out_indices)
        for level, channels, stride in zip(
            levels, model.feature_info.channels(), model.feature_info.reduction(), strict=True
        ):
            assert level.shape == (1, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("decoder", [smp.Unet, smp.FPN, smp.UPerNet])
@pytest.mark.parametrize("name", SEGMENTED)
def test_segmentation_models_pytorch(name, decoder):
    model = decoder(f"tu-{name}", encoder_weights=None, classes=5).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 96, 160)).shape == (1, 5, 96, 160)


@pytest.mark.parametrize("name", TINY)
def test_hugging_face_backbone(name):
    backbone = TimmBackbone(TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=(0, 1, 2, 3)))
    with torch.inference_mode():
        maps = backbone.eval()(torch.randn(1, 3, 64, 96)).feature_maps
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", TINY)
def test_hugging_face_classifier(name, tmp_path):
    config = TimmWrapperConfig(architecture=name, num_labels=4)
    model = TimmWrapperForImageClassification(config).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = model(images).logits
        assert logits.shape == (2, 4)
        model.save_pretrained(tmp_path)
        again = TimmWrapperForImageClassification.from_pretrained(tmp_path).eval()
        assert close(again(images).logits, logits, 1e-6)


SMALL = dict(
    num_labels=3,
    d_model=16,
    num_queries=5,
    encoder_layers=1,
    decoder_layers=2,  # transformers ties the heads of one layer to those of the others
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=16,
    decoder_ffn_dim=16,
)
DETECTORS = {
    DetrConfig: DetrForObjectDetection,
    RTDetrConfig: RTDetrForObjectDetection,
    RTDetrV2Config: RTDetrV2ForObjectDetection,
    DFineConfig: DFineForObjectDetection,
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("config", DETECTORS)
def test_hugging_face_detectors_train_the_backbone(config, name):
    """Their initialisation leaves the backbone's alone, and every parameter in front of the maps gets a gradient."""
    args = dict(SMALL)
    levels = [3]
    if config is not DetrConfig:
        levels = [1, 2, 3]
        channels = timm.create_model(name, features_only=True, out_indices=levels).feature_info.channels()
        args |= dict(encoder_in_channels=channels, encoder_hidden_dim=16, decoder_in_channels=[16] * 3)
    torch.manual_seed(1)
    backbone = timm.create_model(name, features_only=True, out_indices=levels)
    torch.manual_seed(1)
    model = DETECTORS[config](config(backbone_config=TimmBackboneConfig(backbone=name, out_indices=levels), **args))
    ours = model.model.backbone.model
    ours = getattr(ours, "_backbone", ours)
    state = ours.state_dict()
    assert len(state) > 50
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in state.items())
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]
    outputs = model(pixel_values=torch.randn(1, 3, 64, 96), labels=labels)
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    assert all(p.grad is not None for p in ours.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", TINY)
def test_image_tower_of_open_clip(name):
    tower = TimmModel(name, embed_dim=8, image_size=64, proj="").eval()
    with torch.inference_mode():
        assert tower(torch.randn(2, 3, 64, 64)).shape == (2, 8)


@pytest.mark.parametrize("name", TINY)
def test_extracted_features_are_the_modules_own(name):
    model = create(name)
    extract = create_feature_extractor(model, [f"stages.{i}" for i in range(4)])
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        x = model.stem(images)
        for stage, extracted in zip(model.stages, extract(images).values(), strict=True):
            x = stage(x)
            assert close(extracted, x, 1e-5)
