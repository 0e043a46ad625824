"""Bundles: what is written, what comes back, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from kits_export import make_run, preprocessing, tiny_network
from safetensors.torch import load_file, save_file

import nasseg
from nasseg.data.layouts import open_data
from nasseg.errors import BundleError, DataError, ExportFailed
from nasseg.export import bundle
from nasseg.export.bundle import FILES, bundle_predictor, export_model, export_run, load_bundle, typical_size
from nasseg.export.onnx_file import METADATA_KEY, OPSET, load_onnx
from nasseg.export.preprocessing import Preprocessing
from nasseg.export.program import Traced, load_program
from nasseg.genes.genotype import Genotype
from nasseg.models.folding import Folding
from nasseg.training.evaluate import evaluate

pytestmark = pytest.mark.xdist_group("bundle")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters that write empty files, and readers that answer with the module: for what happens around them."""
    kept = {}

    def keep(model: torch.nn.Module, size: tuple[int, int], in_chans: int) -> Traced:
        kept["model"] = model
        return Traced(None, Folding())

    def forward(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: kept["model"](x).detach()

    monkeypatch.setattr(bundle, "trace", keep)
    monkeypatch.setattr(bundle, "write_onnx", lambda program, path, metadata: path.write_bytes(b""))
    monkeypatch.setattr(bundle, "write_program", lambda program, path: path.write_bytes(b""))
    monkeypatch.setattr(bundle, "load_onnx", forward)
    monkeypatch.setattr(bundle, "load_program", forward)


def test_every_file_computes_what_the_module_computes(tmp_path: Path):
    # A size that is no multiple of 32: padding and cropping are part of the files.
    size = (60, 90)
    model = tiny_network("scaseg")
    exported = export_model(model, tmp_path / "b", preprocessing=preprocessing(size, None, 4))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == sorted(FILES)
    assert [name for name, _ in exported.files] == sorted(FILES)
    assert exported.parity.pictures == "3 random pictures"
    assert {a.name for a in exported.parity.agreements} == {"model.onnx", "model.pt2", "model.safetensors"}
    assert all(a.relative < 1e-4 and a.scale > 1e-3 for a in exported.parity.agreements)
    for batch in (1, 4):
        x = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = model(x)
        assert tuple(expected.shape) == (batch, 3, 15, 23)
        for forward in (load_onnx(tmp_path / "b"), load_program(tmp_path / "b"), bundle_predictor(tmp_path / "b")[0]):
            torch.testing.assert_close(forward(x), expected, rtol=1e-4, atol=1e-5)


def test_a_run_becomes_a_bundle_and_comes_back(made: Path, tmp_path: Path):
    model = nasseg.load_bundle(made)
    run = make_run(tmp_path / "run")  # the same weights again
    assert not model.training
    assert model.genotype == run.genotype == Genotype.load(made / "genotype.yaml")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), run.load_model()(x))
        assert model.predict(x).shape == (2, len(run.classes), 64, 64)
    assert model.preprocessing == json.loads((made / "preprocessing.json").read_text())
    facts = Preprocessing.from_dict(model.preprocessing)
    assert facts.classes == run.classes
    assert [list(c) for c in facts.palette] == run.facts["palette"]
    assert (facts.size, facts.stride, facts.image_size) == ((64, 64), 8, (48, 64))
    assert list(facts.mean) == run.facts["mean"]
    assert list(facts.std) == run.facts["std"]


def test_the_onnx_file_says_how_to_feed_it_and_tells_no_paths(made: Path):
    proto = onnx.load(made / "model.onnx")
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 64, 64]
    assert proto.graph.input[0].name == "image"
    assert [d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim] == ["batch", 11, 8, 8]
    assert proto.graph.output[0].name == "logits"
    assert {e.key: e.value for e in proto.metadata_props}.keys() == {METADATA_KEY}
    assert json.loads(proto.metadata_props[0].value) == json.loads((made / "preprocessing.json").read_text())
    here = str(Path(nasseg.__file__).parent).encode()
    for name in FILES:
        assert here not in (made / name).read_bytes()


def test_batch_norms_are_folded_in_the_files_and_not_in_the_weights(made: Path):
    program = torch.export.load(made / "model.pt2")
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(made / "model.onnx").graph.node}
    norms = [name for name, child in load_bundle(made).named_modules() if isinstance(child, torch.nn.BatchNorm2d)]
    trained = load_file(made / "model.safetensors")
    assert norms
    assert all(f"{name}.running_var" in trained and f"{name}.running_var" not in program.state_dict for name in norms)
    folded = [name for name in norms if name.startswith("backbone.")]
    said = re.search(r"BatchNorms folded into convolutions: (\d+), left: 0;", (made / "README.md").read_text())
    assert said is not None
    assert len(folded) <= int(said[1]) <= len(norms)


def test_bundle_predictor_serves_evaluation_by_module_and_by_onnx(made: Path):
    data = open_data("synthetic?train=2&val=2&size=48x64")
    found = []
    for onnx_too in (False, True):
        forward, facts = bundle_predictor(made, onnx=onnx_too)
        found.append(
            evaluate(
                forward, data.split("val"), num_classes=11, classes=facts.classes, size=facts.size, mean=facts.mean, std=facts.std
            ).values
        )
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_a_bundle_is_measured_in_bf16(made: Path):
    data = open_data("synthetic?train=2&val=2&size=48x64")
    forward, facts = bundle_predictor(made)

    def in_bf16(x_BCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(x_BCHW)

    options = {"num_classes": 11, "classes": facts.classes, "size": facts.size, "mean": facts.mean, "std": facts.std}
    plain, rounded = (evaluate(predict, data.split("val"), **options) for predict in (forward, in_bf16))
    assert rounded.values == pytest.approx(plain.values, abs=1.0)
    x = torch.randn(1, 3, 64, 64)
    assert 0 < (in_bf16(x) - forward(x)).abs().max() < 0.02 * forward(x).abs().max()


def test_a_bundle_is_replaced_only_when_told_and_only_if_it_is_one(copy: Path, quick: None):
    run = make_run(copy.parent / "run", name="canet_fca").path
    with pytest.raises(BundleError, match="a bundle lies there already; choose another --out, or replace it with --force"):
        export_run(run, copy)
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"beside the bundle lies notes\.txt, which --force would delete"):
        export_run(run, copy, force=True)
    (copy / "notes.txt").unlink()
    export_run(run, copy, force=True, images=0)
    assert load_bundle(copy).genotype.fusion == "fca"
    assert sorted(p.name for p in copy.parent.iterdir()) == ["bundle", "run"]
    with pytest.raises(BundleError, match="holds files that are no bundle"):
        export_run(run, run, force=True)
    with pytest.raises(BundleError, match="exists and is not a folder"):
        export_run(run, run / "run.yaml")
    with pytest.raises(BundleError, match="cannot be written: File exists"):
        export_run(run, run / "run.yaml" / "b")


def test_data_that_are_not_at_hand_are_said_and_data_that_are_named_must_be_there(tmp_path: Path, quick: None):
    run = make_run(tmp_path / "run")
    text = (run.path / "run.yaml").read_text()
    (run.path / "run.yaml").write_text(text.replace(str(run.facts["data"]), "/nowhere/data"))
    heard = []
    exported = export_run(run.path, tmp_path / "b", say=heard.append)
    assert exported.parity.miou is None
    assert any("mIoU is not compared, the run's data are not at hand" in line for line in heard)
    assert "the data were not at hand" in (tmp_path / "b" / "README.md").read_text()
    assert load_bundle(tmp_path / "b").preprocessing["image_size"] is None
    with pytest.raises(DataError, match="/nowhere/else"):
        export_run(run.path, tmp_path / "c", data="/nowhere/else")
    assert not (tmp_path / "c").exists()
    again = export_run(run.path, tmp_path / "c", data=run.facts["data"], images=2)
    assert again.parity.images == 2
    assert again.parity.miou is not None


def test_data_of_other_classes_are_refused(tmp_path: Path, quick: None):
    run = make_run(tmp_path / "run")
    text = (run.path / "run.yaml").read_text()
    (run.path / "run.yaml").write_text(text.replace("vegetation", "plants"))
    with pytest.raises(DataError, match="its 11 classes are not the run's 11"):
        export_run(run.path, tmp_path / "b", data=run.facts["data"])


def test_a_file_that_parts_from_the_module_is_not_let_out(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch):
    model = tiny_network()
    monkeypatch.setattr(bundle, "load_onnx", lambda path: lambda x: model(x).detach() * 1.01)
    with pytest.raises(ExportFailed, match=r"(?s)nothing was written:\nmodel\.onnx: logits differ by .*, 0\.01 of the largest"):
        export_model(model, tmp_path / "b", preprocessing=preprocessing((64, 64), None, 8))
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_fails_leaves_nothing(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError("\n  no such operator\nmore")

    monkeypatch.setattr(bundle, "write_onnx", broken)
    with pytest.raises(ExportFailed, match=r"^model\.onnx could not be made: RuntimeError: no such operator$"):
        export_model(tiny_network(), tmp_path / "b", preprocessing=preprocessing((64, 64), None, 8))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "write_onnx", full)
    with pytest.raises(BundleError, match="b: cannot be written: No space left on device"):
        export_model(tiny_network(), tmp_path / "b", preprocessing=preprocessing((64, 64), None, 8))
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_of_another_network_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="4 stride, the network has 8"):
        export_model(tiny_network(), tmp_path / "b", preprocessing=preprocessing((64, 64), None, 4))
    with pytest.raises(BundleError, match="3 classes, the network has 5"):
        export_model(tiny_network(num_classes=5), tmp_path / "b", preprocessing=preprocessing((64, 64), None, 8))


def test_the_module_given_is_left_as_it_was(tmp_path: Path, quick: None):
    model = tiny_network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_model(model, tmp_path / "b", preprocessing=preprocessing((64, 64), None, 8))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_no_bundle_is_named(copy: Path, tmp_path: Path):
    with pytest.raises(BundleError, match=r"gone: no such folder"):
        load_bundle(tmp_path / "gone")
    with pytest.raises(BundleError, match=r"README\.md: not a folder; a bundle is one"):
        load_bundle(copy / "README.md")
    with pytest.raises(BundleError, match=r"a training run, not a bundle; make one with: nasseg export .*run --out BUNDLE"):
        load_bundle(make_run(tmp_path / "run").path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"not a bundle, or not a whole one: model\.safetensors missing"):
        load_bundle(copy)


def test_damaged_and_foreign_files_are_named(copy: Path):
    weights = copy / "model.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not the mapped file, which is about to change
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"model\.safetensors: not readable as safetensors"):
        load_bundle(copy)
    first = next(iter(whole))
    changed = {name: tensor for name, tensor in whole.items() if name != first}
    second = next(name for name in changed if changed[name].ndim == 4)
    save_file({**changed, second: torch.zeros(1), "x": torch.zeros(1)}, weights)
    with pytest.raises(
        BundleError, match=rf"of {len(whole)} tensors 1 missing \(first .*\), 1 unknown \(first x\), 1 of another shape \(first {second}\)"
    ):
        load_bundle(copy)
    text = (copy / "genotype.yaml").read_text()
    (copy / "genotype.yaml").write_text(text.replace("format: 1", "format: 9"))
    with pytest.raises(BundleError, match=r"its genotype cannot be built: .*written by a newer nasseg"):
        load_bundle(copy)


def test_typical_size_is_the_median(tmp_path: Path):
    class Split(list):
        pass

    images = [np.zeros((h, 2 * h, 3), dtype=np.uint8) for h in (10, 30, 20)]
    split = Split(type("Sample", (), {"image": image})() for image in images)
    assert typical_size(split) == (20, 40)
