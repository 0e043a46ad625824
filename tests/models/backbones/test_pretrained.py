"""Published weights of our own backbones, out of caches laid out as their clients lay them out."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from kits_hub import COMMIT, MIT_B0, hub_cache, mit_b0, mit_names, mscan_t
from safetensors.torch import load_file

from nasseg.errors import WeightsError
from nasseg.genes.presets import preset
from nasseg.models.backbones import pretrained
from nasseg.models.backbones.mit import MIT_SHAPES
from nasseg.models.backbones.mscan import MSCAN_SHAPES
from nasseg.models.backbones.pretrained import ORIGINS, Download, HubRepository, fetch, identities, origin_of
from nasseg.models.backbones.registry import BUILTIN, create_backbone, pretrained_source
from nasseg.models.segmenter import build


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF_HOME and TORCH_HOME, and no network: what the environment variables set when the clients are imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hf"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_every_backbone_of_ours_has_an_origin() -> None:
    assert set(ORIGINS) == set(BUILTIN) == {*MIT_SHAPES, *MSCAN_SHAPES}
    assert [origin.repository for origin in ORIGINS.values() if isinstance(origin, HubRepository)] == [f"nvidia/mit-b{n}" for n in range(6)]
    files = [origin.url.rpartition("/")[2] for origin in ORIGINS.values() if isinstance(origin, Download)]
    assert [file[:8] for file in files] == [f"{name}_" for name in MSCAN_SHAPES]
    assert all(origin.licence for origin in ORIGINS.values())
    assert origin_of("mit_b0?norm_eps=1e-5") is ORIGINS["mit_b0"]
    assert origin_of("resnet18") is None


def test_the_names_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the dev extra: transformers")
    depths, widths = MIT_B0
    config = transformers.SegformerConfig(depths=list(depths), hidden_sizes=list(widths), num_labels=1000)
    # transformers 5 calls its modules otherwise, and writes files with the names that published ones have.
    transformers.SegformerForImageClassification(config).save_pretrained(tmp_path)
    theirs = {name: tuple(value.shape) for name, value in load_file(tmp_path / "model.safetensors").items()}
    assert theirs == dict(mit_names(depths, widths))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_mit_from_the_cache_of_the_hub(name: str, home: Path) -> None:
    state = mit_b0()
    path = hub_cache(home, state, name=name)
    found = fetch("mit_b0")
    assert (found.path, found.source, found.digest) == (path, f"nvidia/mit-b0@{COMMIT}/{name}", digest(path))
    backbone = create_backbone("mit_b0", pretrained=True)
    assert backbone.weights_digest == digest(path)
    ours = backbone.state_dict()
    at = "segformer.encoder.block.1.1"
    for mine, theirs in {
        "stages.0.embed.proj.weight": state["segformer.encoder.patch_embeddings.0.proj.weight"],
        "stages.3.norm.bias": state["segformer.encoder.layer_norm.3.bias"],
        "stages.1.blocks.1.attn.q.weight": state[f"{at}.attention.self.query.weight"],
        "stages.1.blocks.1.attn.kv.weight": torch.cat([state[f"{at}.attention.self.{part}.weight"] for part in ("key", "value")]),
        "stages.1.blocks.1.attn.reduce.weight": state[f"{at}.attention.self.sr.weight"],
        "stages.1.blocks.1.attn.proj.bias": state[f"{at}.attention.output.dense.bias"],
        "stages.1.blocks.1.ffn.depthwise.weight": state[f"{at}.mlp.dwconv.dwconv.weight"],
    }.items():
        assert torch.equal(ours[mine], theirs), mine
    # Nothing is left at its initial value: the classifier's two tensors are all that is not read, key and value become one.
    blocks = sum(MIT_B0[0])
    assert len(ours) == len(state) - 2 - 2 * blocks


def test_safetensors_come_first(home: Path) -> None:
    hub_cache(home, mit_b0(0), name="pytorch_model.bin")
    path = hub_cache(home, mit_b0(1), name="model.safetensors")
    assert fetch("mit_b0").path == path


def test_a_whole_network_starts_from_them(home: Path) -> None:
    hub_cache(home, state := mit_b0())
    model = build(preset("segformer", "mit_b0"), 5, pretrained=True, in_chans=1)
    weight = model.state_dict()["backbone.stages.0.embed.proj.weight"]
    summed = state["segformer.encoder.patch_embeddings.0.proj.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(weight, summed)


def test_mscan_from_torch_hubs_cache(home: Path, tmp_path: Path) -> None:
    state = mscan_t()
    path = tmp_path / "torch" / "hub" / "checkpoints" / "mscan_t_20230227-119e8c9f.pth"
    path.parent.mkdir(parents=True)
    torch.save({"meta": {"epoch": 300}, "state_dict": state}, path)
    backbone = create_backbone("mscan_t", pretrained=True)
    assert backbone.weights_digest == digest(path)
    ours = backbone.state_dict()
    assert len(ours) == len(state) - 2
    assert torch.equal(ours["stages.2.blocks.4.attn.gate.strips.2.1.weight"], state["block3.4.attn.spatial_gating_unit.conv2_2.weight"])
    assert torch.equal(ours["stages.0.blocks.0.scale1"].flatten(), state["block1.0.layer_scale_1"])


def test_mscan_is_downloaded_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served" / "mscan_t-x.pth"
    served.parent.mkdir()
    torch.save(mscan_t(), served)
    monkeypatch.setitem(ORIGINS, "mscan_t", Download(url=served.as_uri(), whose="a test's", licence="none"))
    first = fetch("mscan_t")
    assert first.path == tmp_path / "torch" / "hub" / "checkpoints" / "mscan_t-x.pth"
    assert (first.source, first.digest) == (served.as_uri(), digest(served))
    served.unlink()
    assert fetch("mscan_t") == first


@pytest.mark.parametrize(("name", "repository"), [("mit_b0", "nvidia/mit-b0"), ("mit_b5?norm_eps=1e-5", "nvidia/mit-b5")])
def test_offline_is_one_sentence(name: str, repository: str, home: Path) -> None:
    words = rf"^mit_b\d: its published weights \({repository} on the Hugging Face Hub\) are not in the cache {home / 'hub'} and could"
    with pytest.raises(WeightsError, match=words) as error:
        create_backbone(name, pretrained=True)
    said = str(error.value)
    assert "(HF_HUB_OFFLINE is set)" in said
    assert said.endswith("or give a file with --weights FILE")
    assert "\n" not in said


def test_mscan_without_a_network(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    words = rf"mscan_b: .*OpenMMLab's copy .*/mscan_b_20230227-3ab7d230\.pth\) are not in the cache {cache} .*Name or service not known"
    with pytest.raises(WeightsError, match=words):
        create_backbone("mscan_b", pretrained=True)


def test_the_network_is_asked_for_the_other_name_only_where_the_first_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer: list[Exception] = []

    def download(repository: str, name: str, *, local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        asked.append(name)
        if answer and name == "model.safetensors":
            raise answer[0]
        return f"/cache/snapshots/{COMMIT}/{name}"

    monkeypatch.setattr(pretrained.huggingface_hub, "hf_hub_download", download)
    origin = ORIGINS["mit_b3"]
    assert origin.download() == Path(f"/cache/snapshots/{COMMIT}/model.safetensors")
    answer.append(EntryNotFoundError("404"))
    assert origin.source(origin.download()) == f"nvidia/mit-b3@{COMMIT}/pytorch_model.bin"
    answer[0] = LocalEntryNotFoundError("no network")
    with pytest.raises(WeightsError, match=r"mit_b3: .*no network"):
        fetch("mit_b3")
    assert asked == ["model.safetensors", "model.safetensors", "pytorch_model.bin", "model.safetensors"]


def test_a_damaged_cache_names_the_file(home: Path) -> None:
    path = hub_cache(home, mit_b0(), name="model.safetensors")
    path.resolve().write_bytes(b"torn")
    with pytest.raises(WeightsError, match=rf"{path}: not readable as safetensors"):
        create_backbone("mit_b0", pretrained=True)


def test_weights_of_another_size_are_refused(home: Path) -> None:
    hub_cache(home, mit_b0(), repository="nvidia/mit-b1")
    with pytest.raises(WeightsError, match=r"weights of another model than mit_b1: .*; it fits mit_b0"):
        create_backbone("mit_b1", pretrained=True)


def test_identities(home: Path) -> None:
    path = hub_cache(home, mit_b0())
    assert identities(("mit_b0", "resnet18")) == {
        "digest": {"mit_b0": digest(path)},
        "source": {"mit_b0": f"nvidia/mit-b0@{COMMIT}/pytorch_model.bin"},
    }
    assert identities(("resnet18",)) == {}


def test_where_weights_come_from() -> None:
    assert pretrained_source("mit_b2") == "nvidia/mit-b2 on the Hugging Face Hub"
    assert pretrained_source("resnet18.a1_in1k") == "timm/resnet18.a1_in1k on the Hugging Face Hub"
    assert pretrained_source("efficientnet_lite1") is None
