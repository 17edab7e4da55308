"""Exported files in ONNX Runtime, with numpy and Pillow alone, beside the same models in PyTorch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.models.detection.roi_heads import paste_masks_in_image

import foveal
from foveal import runtime
from foveal.cli import main
from foveal.data import BoxTransform, JointTransform, load_split
from foveal.export import KEY
from foveal.keypoints import STRIDE, Estimator
from foveal.runtime._pictures import classified, enlarged, whole
from foveal.runtime.detection import pasted
from foveal.runtime.keypoints import decoded, smoothed
from foveal.runtime.segmentation import likeliest
from foveal.tasks import SegmentationArgs
from test_predict_detection import save_run as save_detector
from test_predict_keypoints import save_run as save_keypoints

MEAN, STD = (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)
TASKS = ("classification", "detection", "masks", "segmentation", "keypoints")
