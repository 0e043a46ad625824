"""The cost of whole networks: published backbones, the cache on disk, the count of the built network."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from kits_cost import WIDTHS, counted_parts

import nasseg
from nasseg.cost.cost import PARTS, Part
from nasseg.errors import BackboneError, ConfigError
from nasseg.files import cache_dir
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.models import costing
from nasseg.models.costing import backbone_cost, backbone_facts, cost
from nasseg.models.counting import count
from nasseg.models.form import written_out
from nasseg.models.segmenter import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("NASSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the count of a backbone by a constant; the names it was asked for."""
    asked: list[str] = []

    def fake(name: str, height: int, width: int, in_chans: int) -> costing._Facts:
        asked.append(name)
        return costing._Facts((8, 16, 24, 32), Part(1000, 10 * height * width, 11 * height * width), 990)

    monkeypatch.setattr(costing, "_count", fake)
    return asked


def forget() -> None:
    """As a new process: nothing remembered but what lies on disk."""
    costing._facts.cache_clear()


@pytest.mark.parametrize(
    ("name", "millions", "macs", "fvcore"),
    [
        ("mit_b0", 3.319, 3.204, 3.235),
        ("mit_b1", 13.151, 10.434, 10.496),
        ("mit_b2", 24.196, 20.235, 20.335),
        ("mscan_t", 3.904, 4.637, 4.659),
        ("mscan_s", 13.450, 13.375, 13.412),
        ("mscan_b", 26.278, 26.549, 26.603),
        # torchvision's table: 1.814 G at 224×224 with a classifier of 0.513 M, without it 11.177 M.
        ("resnet18", 11.177, 9.475, 9.501),
    ],
)
def test_backbones_meet_their_papers_at_512(name: str, millions: float, macs: float, fvcore: float):
    part = backbone_cost(name, (512, 512))
    assert [round(part.params / 1e6, 3), round(part.macs / 1e9, 3), round(part.fvcore / 1e9, 3)] == [millions, macs, fvcore]


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_come_with_the_count(name: str):
    assert backbone_facts(name, (64, 64))[0] == WIDTHS[name]


def test_sizes_are_padded_to_a_multiple_of_32():
    assert backbone_cost("mit_b0", (33, 50)) == backbone_cost("mit_b0", (64, 64))
    assert backbone_cost("mit_b0", (64, 65)) == backbone_cost("mit_b0", (64, 96))


def test_input_channels_change_the_first_layer_only():
    three, five = backbone_cost("resnet18", (64, 64)), backbone_cost("resnet18", (64, 64), in_chans=5)
    assert five.params - three.params == 64 * 2 * 49
    assert five.macs - three.macs == 64 * 2 * 49 * 32 * 32


@pytest.mark.parametrize(
    ("name", "backbone", "size"),
    [
        ("scaseg", "mit_b0", (64, 96)),
        ("csap", "mit_b0", (50, 70)),
        ("csap", "hrnet_w18_small", (64, 64)),
        ("canet_fca", "mscan_t", (64, 64)),
        ("metaseg", "tf_efficientnet_lite0", (64, 64)),
        ("feedformer", "mobilenetv2_100", (40, 100)),
        ("u_mixformer", "resnet18", (64, 64)),
    ],
)
def test_cost_is_the_count_on_the_built_network(name: str, backbone: str, size: tuple[int, int]):
    genotype = preset(name, backbone)
    with torch.device("meta"):
        model = build(genotype, 7)
        image = torch.zeros(1, 3, *size)
    with written_out(model):
        counted = count(model, image)
    expected = cost(genotype, size=size, num_classes=7)
    decoder = counted_parts(counted, "decoder.")
    assert {"backbone": counted.parts["backbone"], **decoder} == {
        k: v for k, v in expected.parts.items() if k in decoder or k == "backbone"
    }
    assert (counted.params, counted.macs, counted.fvcore) == (expected.params, expected.macs, expected.macs_fvcore)


def test_what_only_an_unread_map_needs_is_not_live():
    # HRNet's last exchange gives each map layers of its own; CSAP keeps stages 2 to 4 and reads nothing of stage 1.
    whole = backbone_cost("hrnet_w18_small", (64, 64))
    without = cost(preset("csap", "hrnet_w18_small"), size=(64, 64), num_classes=2).parts["backbone"]
    assert whole.params - without.params == 20192
    assert (whole.macs, whole.fvcore) == (without.macs, without.fvcore)
    reading = Genotype.from_dict({"backbone": "hrnet_w18_small", "fusion_stride": 8, "inputs": [1, 4]})
    assert cost(reading, size=(64, 64), num_classes=2).parts["backbone"] == whole


def test_all_parts_are_there_and_the_id_has_the_backbone():
    made = cost(preset("csap"), size=(64, 64), num_classes=2, backbone="mit_b0")
    assert tuple(made.parts) == PARTS
    assert made.parts["stage1"] == Part()
    assert made.id == preset("csap", "mit_b0").id != preset("csap").id
    assert cost(preset("csap", "resnet18"), size=(64, 64), num_classes=2, backbone="mit_b0") == made
    assert nasseg.cost(preset("csap", "mit_b0"), size=(64, 64), num_classes=2) == made


def test_logits_resized_to_the_input_count_in_fvcore():
    plain = cost(preset("csap", "mit_b0"), size=(50, 70), num_classes=2)
    resized = cost(preset("csap", "mit_b0"), size=(50, 70), num_classes=2, resize_logits=True)
    assert resized.macs_fvcore - plain.macs_fvcore == 4 * 2 * 50 * 70
    assert resized.macs == plain.macs


def test_a_genotype_without_a_backbone_is_refused():
    with pytest.raises(ConfigError, match="the genotype names no backbone, so one must be given"):
        cost(preset("csap"), size=(64, 64), num_classes=2)


def test_all_wrong_numbers_are_told_at_once():
    with pytest.raises(
        ConfigError, match=r"height: must be a whole number from 1 \(given 0\)(.|\n)*classes.*given -1(.|\n)*in_chans.*given 0"
    ):
        cost(preset("csap", "mit_b0"), size=(0, 64), num_classes=-1, in_chans=0)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(BackboneError, match="nearest: resnet18"):
        backbone_cost("resnet81", (64, 64))


def test_a_second_process_reads_the_cache(cache: Path, counts: list[str]):
    first = backbone_facts("anything", (64, 64))
    backbone_facts("anything", (64, 64))
    forget()
    assert backbone_facts("anything", (60, 33)) == first == ((8, 16, 24, 32), Part(1000, 40960, 45056))
    assert counts == ["anything"]
    assert backbone_facts("timm:anything", (64, 64)) == first
    assert counts == ["anything"]


def test_each_question_has_its_own_answer(cache: Path, counts: list[str]):
    backbone_facts("a/b?c=1", (64, 64))
    backbone_facts("a/b?c=1", (64, 96))
    backbone_facts("a/b?c=1", (64, 64), in_chans=4)
    backbone_facts("a-b?c=1", (64, 64))
    assert len(counts) == 4
    assert len(list((cache / "backbones").iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"params":1000', '"params":"1000"'),
        lambda text: text.replace('"params":1000', '"params":-1'),
        lambda text: text.replace('"live_without1":990,', ""),
        lambda text: text.replace("[8,16,24,32]", "[8,16,24]"),
        lambda text: text.replace(f'"nasseg":"{nasseg.__version__}"', '"nasseg":"0.0.0"'),
    ],
)
def test_a_torn_file_is_counted_again(cache: Path, counts: list[str], damage):
    facts = backbone_facts("anything", (64, 64))
    (path,) = (cache / "backbones").iterdir()
    whole = path.read_text()
    assert damage(whole) != whole
    path.write_text(damage(whole))
    forget()
    assert backbone_facts("anything", (64, 64)) == facts
    assert counts == ["anything", "anything"]
    assert path.read_text() == whole


@pytest.mark.parametrize("package", ["torch", "timm"])
def test_another_version_counts_again(cache: Path, counts: list[str], monkeypatch: pytest.MonkeyPatch, package: str):
    backbone_facts("anything", (64, 64))
    forget()
    monkeypatch.setattr(costing, "version", lambda name: "99" if name == package else "1")
    backbone_facts("anything", (64, 64))
    assert len(counts) == 2


def test_another_text_of_our_backbones_counts_again(cache: Path, counts: list[str], monkeypatch: pytest.MonkeyPatch):
    backbone_facts("anything", (64, 64))
    forget()
    monkeypatch.setattr(costing, "_source_digest", lambda: "edited")
    backbone_facts("anything", (64, 64))
    assert len(counts) == 2


def test_writers_at_the_same_time_leave_one_whole_file(cache: Path, counts: list[str]):
    found = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(costing._facts.__wrapped__("anything", 64, 64, 3, str(cache_dir())))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    (path,) = (cache / "backbones").iterdir()
    assert json.loads(path.read_text())["params"] == 1000


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, counts: list[str], monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NASSEG_CACHE", str(tmp_path / "file"))
    assert backbone_facts("anything", (64, 64))[0] == (8, 16, 24, 32)
    forget()
    assert backbone_facts("anything", (64, 64))[0] == (8, 16, 24, 32)
    assert len(counts) == 2


def test_a_remembered_backbone_needs_no_torch():
    backbone_facts("mit_b0", (64, 64))
    script = (
        "import sys, nasseg; made = nasseg.cost(nasseg.preset('scaseg', backbone='mit_b0'), size=(64, 64), num_classes=2); "
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules; print(made.params)"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert int(said.stdout) == cost(preset("scaseg", "mit_b0"), size=(64, 64), num_classes=2).params
