"""Exported models: every target computes what the model does, at every shape, or nothing is written."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.nn import functional as F

import foveal
from conftest import TINY, create, randomize
from foveal import detection, keypoints, segmentation
from foveal._errors import UserError
from foveal.cli import main
from foveal.detection import DETECTORS
from foveal.export import (
    TARGETS,
    Options,
    Source,
    built_in,
    compare,
    evaluate,
    export,
    load_source,
    metadata,
    prepare,
    text_of,
)
from foveal.export import _target as target_room
from foveal.export._decode import decode
from foveal.export._fold import cut_weights, first_of_equal, flatten_tokens, fold_norms
from foveal.export.parity import difference, examined, paired, shapes
from foveal.export.quantize import static_int8

SEEN = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
ROOMS = {"detection": detection, "segmentation": segmentation, "keypoints": keypoints}
HEADS = [("detection", "ssd"), ("segmentation", "semantic_fpn"), ("keypoints", "simple_baseline")]
# Without what takes minutes, what is for Apple's systems, and what needs files that npm brings.
SHARED = [name for name in TARGETS if name not in ("executorch", "coreml", "web")]
FIXED = Options(fixed=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own


def source(task: str, head: str, body: str = "test_mat", size: int = 64, **args) -> Source:
    """An untrained model over a backbone, as if it came from a run."""
    if head == "sparse_rcnn":
        args["num_stages"] = 1  # each stage makes rounding four times as large, until it has learned
    model = ROOMS[task].build(head, body, 3, **args).eval()
    if head != "sparse_rcnn":  # whose boxes would not be finite
        randomize(model)
    about = dict(name="run", task=task, architecture=body, head=head, classes=["a", "b", "c"], titles={})
    seen = dict(transform=lambda x: x, preprocessing=SEEN, decoding={}, license="unknown", epoch=None)
    return Source(model=model, size=(size, size), **about, **seen)


def classifier(name: str = "test_mat", size: int = 64):
    known = load_source(name, random_weights=True)
    randomize(known.model)
    return prepare(known, size=(size, size))


@pytest.fixture(scope="module")
def prepared():
    torch.manual_seed(0)
    return classifier()


@pytest.fixture(scope="module")
def pictures():
    return built_in(6)


@pytest.fixture(scope="module")
def fixed(prepared, pictures, tmp_path_factory):
    """A file of every target, for one image of one size."""
    out = tmp_path_factory.mktemp("fixed")
    return {name: export(prepared, TARGETS[name], out, FIXED, pictures) for name in SHARED}


def test_targets():
    assert sorted(TARGETS) == ["coreml", "executorch", "onnx", "openvino", "pt2", "web"]
    for name, target in TARGETS.items():
        assert target.name == name
        assert "fp32" in target.tolerance
        assert target.tolerance["fp32"] <= 1e-4


@pytest.mark.parametrize("name", SHARED)
def test_a_file_computes_what_the_model_does(prepared, fixed, name):
    done, target = fixed[name], TARGETS[name]
    assert all(file.is_file() for file in done.files)
    assert done.parity.agreed == 1
    images = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    got = target.load(done.files[0])(images)
    expected = prepared.expected(torch.from_numpy(images))
    assert difference(expected["logits"].numpy(), got["logits"]) < 1e-5


@pytest.mark.parametrize("name", SHARED)
def test_a_file_says_what_it_is(prepared, fixed, name):
    said = json.loads(TARGETS[name].read(fixed[name].files[0]))
    assert said["version"] == 1
    assert (said["task"], said["model"], said["head"]) == ("classification", "test_mat", None)
    seen = prepared.source.preprocessing | {"input_size": [3, 64, 64]}  # and not that of the model
    assert said["preprocessing"] == seen
    assert said["inputs"][0]["shape"] == [1, 3, 64, 64]
    assert [out["name"] for out in said["outputs"]] == ["logits"]
    assert len(said["source"]["sha256"]) == 64
    source = replace(prepared.source, preprocessing=seen)
    assert said == json.loads(metadata(source, said["outputs"], [1, 3, 64, 64], {}))


def test_one_file_for_all_sizes(prepared, pictures, tmp_path):
    """Dynamic, at sizes below and above the one that was traced."""
    done = export(prepared, TARGETS["onnx"], tmp_path, Options(), pictures)
    assert len(done.parity.shapes) == 6
    assert len({shape[0] for shape in done.parity.shapes}) == 3
    assert any(shape[2] % 2 and shape[2] != shape[3] for shape in done.parity.shapes)
    dims = onnx.load(tmp_path / "test_mat.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_family_for_all_sizes(name, pictures, tmp_path):
    for target in SHARED:
        export(classifier(name, 224), TARGETS[target], tmp_path, Options(), pictures)


@pytest.mark.slow
@pytest.mark.parametrize("options", [FIXED, Options()])
@pytest.mark.parametrize("name", TINY)
def test_executorch(name, pictures, tmp_path, options):
    done = export(classifier(name), TARGETS["executorch"], tmp_path, options, pictures)
    assert json.loads(done.files[1].read_text())["task"] == "classification"


@pytest.mark.parametrize("scores", [[1.0, 3, 1, 2, 2, 2, 1, 2, 0, 2], [0.0] * 200, [-1.0] * 50 + [0.5]])
def test_the_first_of_equal(scores):
    class Largest(nn.Module):
        def forward(self, x):
            return x.topk(5, dim=1, sorted=False).indices

    program = first_of_equal(torch.export.export(Largest(), (torch.tensor([scores]),)))
    expected = sorted(range(len(scores)), key=lambda place: -scores[place])[:5]
    assert sorted(program.module()(torch.tensor([scores]))[0].tolist()) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("head", [name for name in DETECTORS if name != "sparse_rcnn"])
def test_executorch_takes_raw_detectors(head, pictures, tmp_path):
    known = prepare(source("detection", head, "test_mat"), raw=True)
    parity = export(known, TARGETS["executorch"], tmp_path, FIXED, pictures).parity
    assert max(parity.differences.values()) < 1e-5


@pytest.mark.parametrize(
    ("head", "said"), [("fcos", "torchvision::nms, "), ("mask_rcnn", "nms, torchvision::roi_align, ")]
)
def test_executorch_has_no_suppression(head, said, tmp_path):
    known = prepare(source("detection", head, "test_mat"))
    with pytest.raises(
        UserError, match=rf"^ExecuTorch has no .*{said}which \w+ needs; try without decoding \(--raw\)$"
    ):
        TARGETS["executorch"].convert(known, tmp_path / "x.pte", "", FIXED)


@pytest.mark.parametrize(
    ("task", "head", "body"),
    [
        ("classification", "", "test_emsnet"),
        ("segmentation", "semantic_fpn", "test_mat"),
        ("detection", "retinanet", "test_partialformer"),
    ],
)
def test_coreml(task, head, body, pictures, tmp_path):
    """Its runtime is of Apple's systems; here the package must have the inputs and outputs of the model."""
    import coremltools as ct

    known = prepare(source(task, head, body)) if head else classifier(body)
    done = export(known, TARGETS["coreml"], tmp_path, Options(), pictures)
    assert (done.parity is None) == (platform.system() != "Darwin")
    said = json.loads(TARGETS["coreml"].read(done.files[0]))
    assert (said["task"], said["inputs"][0]["shape"]) == (task, [1, 3, 64, 64])
    shapes = {name: list(value.shape) for name, value in known.expected(torch.zeros(1, 3, 64, 64)).items()}
    spec = ct.models.MLModel(str(done.files[0]), skip_model_load=True).get_spec().description
    written = {one.name: list(one.type.multiArrayType.shape) for one in (*spec.input, *spec.output)}
    assert written == {"images": [1, 3, 64, 64]} | ({name: [] for name in shapes} if known.counted else shapes)


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_every_task(task, head, pictures, tmp_path):
    done = export(prepare(source(task, head)), TARGETS["onnx"], tmp_path, FIXED, pictures)
    assert done.parity.agreed is not None
    assert done.parity.agreed >= 0.99
    said = json.loads(TARGETS["onnx"].read(done.files[0]))
    assert (said["task"], said["head"]) == (task, head)


@pytest.mark.slow
@pytest.mark.parametrize("head", sorted(DETECTORS))
def test_every_detector_for_all_sizes(head, pictures, tmp_path):
    for raw in (False, True):
        done = export(
            prepare(source("detection", head), raw=raw), TARGETS["onnx"], tmp_path / str(raw), Options(), pictures
        )
        assert raw or done.parity.agreed >= 0.99


@pytest.mark.parametrize("head", sorted(DETECTORS))
def test_decoding_for_graphs_is_that_of_the_detector(head):
    model = source("detection", head).model
    for module in model.modules():  # scores on both sides of every threshold
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.clamp_(-1, 1)
    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        raw = model(images)
        wanted = model.detections(raw, torch.tensor([[96, 128]] * 2))
        found = decode(model, raw, images)
    names = ["boxes", "scores", "labels", "pictures", "masks"][: len(found)]
    expected = {name: torch.cat([one[name] for one in wanted]).numpy() for name in names if name != "pictures"}
    expected["pictures"] = np.repeat(np.arange(2), [len(one["boxes"]) for one in wanted])
    got = {name: value.numpy() for name, value in zip(names, found)}
    assert len(expected["boxes"]) > 4
    own, other, same, either = paired(expected, got, 1e-4, 1e-2)
    assert same >= 0.98 * either
    for name in names:
        assert difference(own[name], other[name]) < 1e-4, name
    assert (np.diff(got["pictures"]) >= 0).all()


@pytest.mark.parametrize("name", SHARED)
def test_a_file_names_no_folder_of_the_machine(fixed, name):
    content = b"".join(file.read_bytes() for file in fixed[name].files)
    for folder in (Path(foveal.__file__).parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in content


@pytest.mark.parametrize("name", TINY)
def test_fused_layers_equal_the_definition(name):
    model = create(name)
    images = torch.randn(2, 3, 97, 135)
    with torch.inference_mode():
        expected = model(images)
        fused = reparameterize_model(model)
        assert len([*fused.modules()]) < len([*model.modules()])
        for _ in range(2):  # what is fused has nothing left to fuse
            assert torch.allclose(fused(images), expected, atol=1e-4 * expected.abs().max())
            fused = reparameterize_model(fused)


def test_norms_are_folded():
    shared = nn.Conv2d(4, 4, 1)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2, bias=False))
    body.extend([nn.BatchNorm2d(4), shared, nn.BatchNorm2d(4), shared])
    model = randomize(body).eval()
    images = torch.randn(1, 3, 8, 8)
    program = torch.export.export(model, (images,))
    assert fold_norms(program) == 2  # and not the one behind weights that are used twice
    with torch.inference_mode():
        assert torch.allclose(program.module()(images), model(images), atol=1e-5)


def test_of_a_weight_only_what_is_read_is_kept():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.once, self.twice = nn.Parameter(torch.randn(9, 4)), nn.Parameter(torch.randn(9, 4))

        def forward(self, x):
            return F.linear(x, self.once[6:]) + F.linear(x, self.twice[:3]) + F.linear(x, self.twice[3:6])

    model, x = Slices(), torch.randn(2, 4)
    program = torch.export.export(model, (x,))
    assert cut_weights(program) == 1
    assert {name: len(value) for name, value in program.state_dict.items()} == {"once": 3, "twice": 9}
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize("name", TINY)
def test_layers_on_positions_see_lists(name):
    """No linear layer and no norm of channels is left on a map, and the program computes what it did."""
    model = create(name)
    images = torch.randn(1, 3, 64, 96)
    program = torch.export.export(model, (images,))
    layers = (torch.ops.aten.linear.default, torch.ops.aten.layer_norm.default)
    assert flatten_tokens(program) > 10
    found = [node for node in program.graph.nodes if node.target in layers]
    assert {node.meta["val"].ndim for node in found} == {2}
    with torch.inference_mode():
        expected = model(images)
        assert torch.allclose(program.module()(images), expected, atol=1e-5 * expected.abs().max())


def test_a_tampered_file_is_seen(prepared, fixed, pictures, tmp_path):
    model = onnx.load(fixed["onnx"].files[0])
    largest = max(model.graph.initializer, key=lambda value: np.prod(value.dims))
    values = onnx.numpy_helper.to_array(largest).copy()
    values.flat[0] += 0.5
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    onnx.save(model, tmp_path / "x.onnx")
    target = TARGETS["onnx"]
    parity = compare(prepared, target, target.load(tmp_path / "x.onnx"), FIXED, pictures)
    assert not parity.passed
    assert parity.differences["logits"] > 1e-4


@pytest.mark.parametrize("wrong", ["value", "shape", "name", "error", "nan"])
def test_nothing_wrong_is_left(prepared, fixed, pictures, tmp_path, monkeypatch, wrong):
    """An artifact that does not compute what the model does is not written."""
    good = TARGETS["onnx"].load(fixed["onnx"].files[0])

    def run(images):
        logits = good(images)["logits"]
        if wrong == "error":
            raise RuntimeError("no")
        changed = {"value": logits + 1e-2, "shape": logits[:, 1:], "name": logits, "nan": logits * np.nan}[wrong]
        return {"other" if wrong == "name" else "logits": changed}

    def convert(prepared, path, text, options):
        path.write_bytes(b"")
        return [path]

    fields = {**vars(TARGETS["onnx"]), "convert": convert, "load": lambda path: run}
    with pytest.raises(UserError, match="is not written"):
        export(prepared, target_room.Target(**fields), tmp_path / "out", FIXED, pictures)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_not_finite_differs():
    finite, nan = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert difference(finite, finite) == 0
    assert difference(finite, nan) == difference(nan, finite) == difference(nan, nan) == np.inf


def test_detections_that_are_missing_are_seen():
    boxes = np.array([[0, 0, 9, 9], [5, 5, 30, 30]], np.float32)
    all_of_them = {"boxes": boxes, "scores": np.array([0.9, 0.8]), "labels": np.array([0, 1])}
    all_of_them["pictures"] = np.array([0, 0])
    half = {name: value[:1] for name, value in all_of_them.items()}
    assert paired(all_of_them, half, 1e-3, 0.1)[2:] == (1, 2)
    assert paired(half, all_of_them, 1e-3, 0.1)[2:] == (1, 2)
    assert paired({k: v[:0] for k, v in half.items()}, half, 1e-3, 0.1)[2:] == (0, 1)


def test_smaller_types(prepared, pictures, tmp_path):
    calibration = tuple(np.random.default_rng(0).normal(size=(4, 1, 3, 64, 64)).astype(np.float32))
    size = {}
    for dtype in ("fp32", "fp16", "int8"):
        done = export(prepared, TARGETS["onnx"], tmp_path, Options(True, dtype, calibration), pictures)
        size[dtype] = done.size
        figures = evaluate(prepared, TARGETS["onnx"], done.files[0], pictures, [0] * len(pictures))
        assert set(figures) == {"agreement", "speed", "top1", "top1_of_model"}
        assert done.parity.differences["logits"] < {"fp32": 1e-4, "fp16": 0.05, "int8": 0.5}[dtype]
    assert size["int8"] < size["fp16"] < size["fp32"]


def test_parts_that_stay_float32(tmp_path):
    calibration = tuple(np.random.default_rng(0).normal(size=(2, 1, 3, 64, 64)).astype(np.float32))
    known, options = classifier("test_mat"), Options(True, "int8", calibration, keep_float=("stages.3", "final"))
    (file,) = TARGETS["onnx"].convert(known, tmp_path / "x.onnx", "", options)
    nodes = onnx.load(file).graph.node
    scaled = " ".join(name for node in nodes if "Linear" in node.op_type for name in node.input)
    parts = [name for name in ("stem", "stages.2", "stages.3", "final", "head") if f"model.{name}." in scaled]
    assert parts == ["stem", "stages.2", "head"]
    made = static_int8(known.onnx[()], calibration, False, options.keep_float)  # nodes here say where they are from
    nodes = made.graph.node
    scores = {name for node in nodes if node.op_type == "Softmax" and "stages.3" in str(node) for name in node.output}
    products = [node for node in nodes if node.op_type == "MatMul" and scores & {*node.input}]
    assert len(products) == len(scores) > 0  # of attention, which have no weights
    with pytest.raises(UserError, match=r"^nothing is int8 in a part 'stage'; parts are stem, stages, final, head"):
        TARGETS["onnx"].convert(known, file, "", replace(options, keep_float=("stem", "stage")))


def test_every_large_weight_is_int8(tmp_path):
    """Also those of transposed convolutions, and of the one window of MAT's last stage those rows that are read."""
    calibration = tuple(np.random.default_rng(0).normal(size=(2, 1, 3, 64, 64)).astype(np.float32))
    known = prepare(source("keypoints", "simple_baseline"), size=(64, 64))
    (file,) = TARGETS["onnx"].convert(known, tmp_path / "x.onnx", "", Options(True, "int8", calibration))
    weights = [weight for weight in onnx.load(file).graph.initializer if np.prod(weight.dims) > 512]
    assert {weight.data_type for weight in weights} == {onnx.TensorProto.INT8}
    assert any("deconv" in weight.name for weight in weights)


def test_int8_that_changes_much_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("foveal.cli.export.FEW", 101)
    argv = ["export", "test_mat", "--random-weights", "--size", "64", "--fixed", "--dtype", "int8"]
    assert main([*argv, "--data", "fashion", "--out", str(tmp_path)]) == 0
    assert "have to stay float32: --keep-float stem stages final head\n" in capsys.readouterr().out


def test_shapes_of_a_small_model_are_not_below_what_it_takes():
    unseen = shapes((32, 32), ("batch", "height", "width"))[1:]
    assert min(min(shape[1:]) for shape in unseen) > 32
    assert len({shape[1:] for shape in unseen}) > 2


def test_the_command(tmp_path, capsys):
    argv = ["export", "test_mat", "--random-weights", "--size", "64", "--fixed", "--to", "pt2", "--out", str(tmp_path)]
    assert main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == [str(tmp_path / "test_mat_fixed.pt2")]
    assert said["parity"]["differences"]["logits"] < 1e-4
    assert main(argv) == 2
    assert "exists; nothing was overwritten" in capsys.readouterr().err
    (tmp_path / "pose").mkdir()
    (tmp_path / "pose" / "config.json").write_text('{"task": "pose"}')
    (tmp_path / "pose" / "model.safetensors").write_bytes(b"")
    assert main(["export", str(tmp_path / "pose")]) == 2
    assert "unknown task 'pose'" in capsys.readouterr().err
    (tmp_path / "test_mat.bin").write_text("mine")
    argv = ["export", "test_mat", "--random-weights", "--size", "64", "--to", "openvino", "--out", str(tmp_path)]
    assert main(argv) == 2
    assert "test_mat.bin exists; nothing was overwritten" in capsys.readouterr().err
    assert (tmp_path / "test_mat.bin").read_text() == "mine"
    assert not (tmp_path / "test_mat.xml").exists()
    assert main([*argv[:-1], str(tmp_path / "test_mat_fixed.pt2")]) == 2
    assert "test_mat_fixed.pt2: File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("test_mat --to onx", "unknown target 'onx'; nearest: onnx"),
        ("test_mat --to pt2 --dtype int8 --images x", "pt2 has no int8, but fp32"),
        ("test_mat --dtype int8", "give --data or --images"),
        ("test_mat --size 8", "size takes one or two numbers of 32 or more"),
        ("test_mat --data a --images b", "exclude each other"),
        ("test_mat --root a", "--root has no effect without --data"),
        ("test_mat --keep-float stem", "--keep-float has no effect without --dtype int8"),
        ("test_mat", "timm has no weights for test_mat"),
        ("nothing --random-weights", "--random-weights is for a timm name"),
        ("test_mat --random-weights --raw", "--raw has no effect on classification"),
        ("x.onnx", "x.onnx is an exported file"),
    ],
)
def test_bad_input(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *argv.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not any(Path().iterdir())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr(target_room, "find_spec", lambda package: None)
    extra = TARGETS[name].extra
    with pytest.raises(UserError, match=rf"foveal\[{extra}\]" if extra else "needs torch"):
        TARGETS[name].check("fp32")


def test_a_run_is_exported_with_its_epoch(tmp_path):
    from runs import save_model

    model = timm.create_model("test_mat", num_classes=2)
    best = tmp_path / "run" / "best"
    best.parent.mkdir()
    save_model(model, {"label_names": ["a", "b"], "pretrained_cfg": model.pretrained_cfg}, best)
    lines = [{"epoch": 1, "top1": 50.0}, {"epoch": 2, "top1": 75.0}, {"epoch": 3, "top1": 75.0}]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    known = load_source(str(tmp_path / "run"))
    assert (known.name, known.epoch, known.classes) == ("run", 2, ["a", "b"])


def test_shapes_that_differ_have_no_agreement(prepared):
    images = np.zeros((1, 3, 64, 64), np.float32)
    parity = examined(prepared, lambda x: {"logits": np.zeros((1, 7), np.float32)}, [images], None)
    assert "logits is [1, 7]" in parity.failed


@pytest.mark.parametrize("target", ["onnx", "pt2"])
def test_a_picture_in_which_nothing_is_found(target, tmp_path):
    """``torch.export`` keeps numbers of what is found from 0 and 1; see ``forget_bounds``."""
    known = source("detection", "retinanet")
    known.model.score_thresh = 0.999999
    detector, path = prepare(known), tmp_path / f"detector{TARGETS[target].suffix}"
    TARGETS[target].convert(detector, path, text_of(detector, TARGETS[target], FIXED), FIXED)
    images = torch.randn(1, 3, 64, 64)
    assert not len(detector.expected(images)["boxes"])
    found = TARGETS[target].load(path)(images.numpy())
    assert [len(found[name]) for name in ("boxes", "scores", "labels", "pictures")] == [0] * 4


def test_pools_beyond_a_map_in_openvino(pictures, tmp_path):
    """EMSNet pools maps of stride 32 by 6, which are smaller below 161 px."""
    assert export(classifier("test_emsnet"), TARGETS["openvino"], tmp_path, FIXED, pictures).parity.passed


@pytest.mark.parametrize("target", SHARED)
def test_of_equal_scores_the_first_are_foreground(target, pictures, tmp_path):
    """What padding makes equal in a PartialFormer: every runtime has to take the same tokens."""
    torch.manual_seed(6)  # at whose weights padding is foreground
    known = source("segmentation", "semantic_fpn", "test_partialformer", 96)
    done = export(prepare(known, size=(167, 115)), TARGETS[target], tmp_path, FIXED, pictures)
    assert done.parity.differences["logits"] < 2e-5
