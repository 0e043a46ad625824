"""FeedFormer, MetaSeg, SegNeXt, U-MixFormer: logits as those of the published structure, from weights under the published names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kits_lineage import CASES, SMALL, Case, Encoder, mmseg_mit
from kits_published import CLASSES, image, same_logits
from torch import nn

from nasseg.errors import WeightsError
from nasseg.published.forms import FORMS
from nasseg.published.network import Published


def saved(folder: Path, case: Case, width: int | None = None) -> tuple[Path, Encoder, nn.Module]:
    encoder = case.encoder()
    head = case.head(SMALL, CLASSES, width or case.width)
    weights = {f"decode_head.{key}": value for key, value in head.state_dict().items()}
    path = folder / "iter_160000.pth"
    torch.save({"state_dict": encoder.state | weights, "meta": {}}, path)
    return path, encoder, head


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_originals(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path, encoder, head = saved(tmp_path, case)
    found = Published.open(path)
    assert found.kind == case.kind
    assert found.genotype.backbone == encoder.name
    flat = found.genotype.flat()
    assert {gene: flat[gene] for gene in case.genes} == case.genes
    model = found.model()
    for size in case.sizes:
        x_BCHW = image(size)
        with torch.no_grad():
            same_logits(head(encoder.maps(x_BCHW)), model(x_BCHW))


@pytest.mark.parametrize("name", ["feedformer", "u_mixformer", "metaseg", "segnext"])
def test_the_fusion_width_is_told_from_the_weights(name: str, tmp_path: Path) -> None:
    assert Published.open(saved(tmp_path, CASES[name], width=192)[0]).genotype.fusion_width == 192


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("feedformer", {"conv_seg"}),
        ("feedformer_city", {"conv_seg"}),
        ("u_mixformer", {"conv_seg", *(f"attn_c{stage}.attn.{part}" for stage in (1, 2, 3, 4) for part in ("sr", "norm"))}),
        ("u_mixformer_city", {"conv_seg", *(f"attn_c{stage}.attn.sr2" for stage in (1, 2, 3, 4))}),
        ("metaseg", {"conv_seg"}),
    ],
)
def test_only_weights_on_the_list_are_dropped(name: str, dropped: set[str], tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path, CASES[name])
    wanted = 2 * len(dropped)
    assert any(f"{wanted} tensors that the network never uses are left out" in remark for remark in Published.open(path).remarks)
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {
        key: value for key, value in content["state_dict"].items() if key.rpartition(".")[0].removeprefix("decode_head.") not in dropped
    }
    torch.save(content, path)
    assert not any("left out" in remark for remark in Published.open(path).remarks)
    content["state_dict"]["decode_head.attn_c4.attn.extra.weight"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"1 of the file's mean nothing to it, such as decode_head.attn_c4.attn.extra"):
        Published.open(path)


def test_segnexts_rank_is_the_configurations_or_the_authors(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path, CASES["segnext"])
    content = torch.load(path, weights_only=True)
    found = Published.open(path)
    assert found.genotype.ham_rank == 16
    assert any("random bases in every call" in remark for remark in found.remarks)
    content["meta"] = {"config": "model = dict(decode_head=dict(type='LightHamHead', ham_kwargs=dict(MD_R=64)))"}
    torch.save(content, path)
    assert Published.open(path).genotype.ham_rank == 64
    content["meta"] = {"config": "model = dict(decode_head=dict(type='LightHamHead', ham_kwargs=dict(MD_R=300)))"}
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"its sizes are none of the search space: .*ham_rank: must be a whole number from 1 to 256"):
        Published.open(path)


def test_the_same_names_in_another_code_base_are_another_network(tmp_path: Path) -> None:
    # U-MixFormer's repository has a FeedFormer of its own on mmsegmentation's encoder, whose residuals leave from normalised maps.
    head = CASES["feedformer"].head(SMALL, CLASSES, 128).state_dict()
    torch.save({"state_dict": mmseg_mit().state | {f"decode_head.{key}": value for key, value in head.items()}}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no published network that nasseg knows"):
        Published.open(tmp_path / "net.pth")


def test_every_form_of_the_table_is_tried() -> None:
    tried = {case.kind for case in CASES.values()}
    assert {form.name for form in FORMS if not form.name.startswith("SegFormer")} == tried
