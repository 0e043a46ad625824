"""``nasseg cost``, and genotypes named on a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasseg.cli.genotypes import read_genotype
from nasseg.cli.main import run
from nasseg.cli.target import Asked, trial_of
from nasseg.errors import ConfigError
from nasseg.genes.presets import preset
from nasseg.models.costing import cost
from nasseg.models.effective import executed

AT = ["--size", "64x96", "--classes", "5"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    run(["cost", *arguments])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(["cost", *arguments])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_json_is_the_cost(capsys: pytest.CaptureFixture[str]):
    given = json.loads(said(capsys, "scaseg", "--backbone", "mit_b0", *AT, "--json"))
    assert given == cost(preset("scaseg", "mit_b0"), size=(64, 96), num_classes=5).to_dict()
    assert list(given) == ["id", "backbone", "size", "classes", "params", "macs", "macs_fvcore", "parts"]
    assert list(given["parts"]) == ["backbone", "stage1", "stage2", "stage3", "stage4", "fusion"]
    assert {tuple(part) for part in given["parts"].values()} == {("params", "macs")}
    assert sum(part["macs"] for part in given["parts"].values()) == given["macs"]


def test_published_row_from_the_command_line(capsys: pytest.CaptureFixture[str]):
    given = json.loads(said(capsys, "scaseg", "--backbone", "mit_b0", "--size", "512x512", "--classes", "150", "--json"))
    assert (given["params"], given["macs"], given["macs_fvcore"]) == (4910038, 5850935040, 5936590592)


def test_table_by_part(capsys: pytest.CaptureFixture[str]):
    text = said(capsys, "csap", "--backbone", "mit_b0", *AT)
    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    made = cost(preset("csap", "mit_b0"), size=(64, 96), num_classes=5)
    assert lines["stage1"] == ["stage1", "-", "-", "-"]
    assert lines["stage4"][1:3] == [f"{made.parts['stage4'].params / 1e6:.3f}", f"{made.parts['stage4'].macs / 1e9:.3f}"]
    assert lines["total"][1:3] == [f"{made.params / 1e6:.3f}", f"{made.macs / 1e9:.3f}"]
    assert f"{made.macs_fvcore / 1e9:.3f} G" in text
    assert "heads instead of" not in text


def test_heads_that_do_not_divide_are_shown(capsys: pytest.CaptureFixture[str]):
    text = said(capsys, "csap", "--backbone", "mit_b0", *AT, "--set", "stage4.heads=6")
    assert "stage 4 and 2 and 3: 4 heads instead of 6, the largest number below it that divides 256 and 64 and 160" in text


def test_genes_are_replaced(capsys: pytest.CaptureFixture[str]):
    sets = ["--set", "lpm=eca", "--set", "stage3.attention=stage4", "--set", "fusion_width=64"]
    given = json.loads(
        said(capsys, "scaseg", "--backbone", "mit_b0", *AT, "--json", *sets, "--set", "stage3.inputs=[3, 4]", "--set", "heads=4")
    )
    expected = preset("scaseg", "mit_b0").override(
        {"lpm": "eca", "stage3.attention": "stage4", "fusion_width": 64, "stage3.inputs": [3, 4], "heads": 4}
    )
    assert given["id"] == expected.id


def test_logits_resized(capsys: pytest.CaptureFixture[str]):
    plain = json.loads(said(capsys, "csap", "--backbone", "mit_b0", *AT, "--json"))
    resized = json.loads(said(capsys, "csap", "--backbone", "mit_b0", *AT, "--json", "--resize-logits"))
    assert resized["macs_fvcore"] - plain["macs_fvcore"] == 4 * 5 * 64 * 96
    assert "with the resize of the logits" in said(capsys, "csap", "--backbone", "mit_b0", *AT, "--resize-logits")


def test_what_is_executed_stands_beside_the_convention(capsys: pytest.CaptureFixture[str]):
    arguments = ["scaseg", "--backbone", "mit_b0", "--size", "512x512", "--classes", "19"]
    plain = json.loads(said(capsys, *arguments, "--json"))
    given = json.loads(said(capsys, *arguments, "--json", "--effective", "--panels", "48"))
    expected = executed(preset("scaseg", "mit_b0"), size=(512, 512), num_classes=19, panels=48)
    assert given == plain | {"executed": {"panels": 48, "macs": expected.macs, "parts": dict(expected.parts)}}
    text = said(capsys, *arguments, "--effective")
    default = executed(preset("scaseg", "mit_b0"), size=(512, 512), num_classes=19)
    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert lines["part"] == ["part", "params", "M", "MACs", "G", "executed", "G", "ratio"]
    for name in ("stage1", "fusion", "backbone"):
        part, done = plain["parts"][name], default.parts[name]
        figures = [part["params"] / 1e6, part["macs"] / 1e9, done / 1e9]
        assert lines[name][1:] == [*(f"{figure:.3f}" for figure in figures), f"{done / part['macs']:.2f}"]
    assert lines["total"][2:4] == [f"{plain['macs'] / 1e9:.3f}", f"{default.macs / 1e9:.3f}"]
    assert "executed: strips by 32 panels; the number of panels follows the range of the data" in text
    assert "executed" not in said(capsys, *arguments)


def test_stages_that_are_not_kept_execute_nothing(capsys: pytest.CaptureFixture[str]):
    lines = {line.split()[0]: line.split() for line in said(capsys, "csap", "--backbone", "mit_b0", *AT, "--effective").splitlines()}
    assert lines["stage1"] == ["stage1", "-", "-", "-", "-"]


def test_genotype_file_brings_its_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    preset("csap", "resnet18").save(tmp_path / "mine.yaml")
    assert json.loads(said(capsys, str(tmp_path / "mine.yaml"), *AT, "--json"))["backbone"] == "resnet18"
    assert json.loads(said(capsys, str(tmp_path / "mine.yaml"), *AT, "--json", "--backbone", "mit_b0"))["backbone"] == "mit_b0"
    assert json.loads(said(capsys, str(tmp_path / "mine.yaml"), *AT, "--json", "--set", "backbone=mit_b0"))["backbone"] == "mit_b0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scaseg", *AT], "scaseg names no backbone, so one must be given; nearest legal: mit_b0"),
        (["scsag", "--backbone", "mit_b0", *AT], "neither a genotype file nor a published design"),
        (["scsag", "--backbone", "mit_b0", *AT], "nearest legal: scaseg"),
        (["folder/metaseg.yaml", "--backbone", "mit_b0", *AT], "nearest legal: metaseg"),
        (["scaseg", "--backbone", "mit_b9", *AT], "unknown backbone 'mit_b9'"),
        (["scaseg", "--backbone", "mit_b0", *AT, "--set", "stage3.lpn=se"], "nearest legal: lpm"),
        (["scaseg", "--backbone", "mit_b0", *AT, "--set", "lpm=see"], "nearest legal: se"),
        (["scaseg", "--backbone", "mit_b0", *AT, "--set", "trainer.lr=1"], "a trainer's setting changes no cost"),
        (["scaseg", "--backbone", "mit_b0", "--size", "64", "--classes", "0"], "classes: must be a whole number from 1"),
        (["scaseg", "--backbone", "mit_b0", *AT, "--effective", "--panels", "0"], "panels: must be a whole number from 1"),
        (["scaseg", "--backbone", "mit_b0", *AT, "--panels", "48"], "--panels: says how strips are counted with --effective"),
        (["scaseg", "--backbone", "mit_b0", "--size", "64y64", "--classes", "5"], "a size is HEIGHTxWIDTH in pixels"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *arguments)


def test_a_preset_has_the_size_published_on_the_backbone(capsys: pytest.CaptureFixture[str]):
    sized = json.loads(said(capsys, "segformer", "--backbone", "mit_b2", *AT, "--json"))
    assert sized["id"] == preset("segformer").override({"project": 768, "fusion_width": 768}).on("mit_b2").id
    narrow = ("--set", "project=256", "--set", "fusion_width=256")
    base = json.loads(said(capsys, "segformer", "--backbone", "mit_b2", *AT, *narrow, "--json"))
    assert base["id"] == preset("segformer").on("mit_b2").id
    out = said(capsys, "segformer", "--backbone", "resnet18", *AT)
    assert "segformer was not published on resnet18: this is its base size\n" in out
    assert "published" not in said(capsys, "segformer", "--backbone", "mit_b0", *AT)


def test_genotypes_by_name(tmp_path: Path):
    assert read_genotype("csap") == preset("csap")
    preset("scaseg", "mit_b0").save(tmp_path / "a.yaml")
    assert read_genotype(str(tmp_path / "a.yaml")) == preset("scaseg", "mit_b0")
    with pytest.raises(ConfigError, match="designs are segformer, segformer_mmseg, segnext, feedformer"):
        read_genotype(str(tmp_path))


def test_what_is_trained_has_the_size_published_on_the_backbone():
    trial = trial_of("segformer", Asked(data="synthetic", size=(64, 64), backbone="mit_b2", genes={"project": 512}))
    assert (trial.genotype.backbone, trial.genotype.project, trial.genotype.fusion_width) == ("mit_b2", 512, 768)
