"""nasseg space, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasseg.cli.main import run
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    run(arguments)
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


COSTED = ("--backbone", "mit_b0", "--size", "64x96", "--classes", "5")


class TestShow:
    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "show", "tiny")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[1] == "312 genotypes, 7 variables"
        assert "lpm 4 3 2 tied none, se, eca local perception module and its gate" in lines
        assert "attention 3 2 none, own, stage4" in lines
        assert "key_stride 4 3 2 32" in lines
        assert "starts from csap, canet_fca" in lines
        assert "\x1b" not in out

    def test_settled_genes_show(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "show", "decoder", "--backbone", "mit_b0", "--set", "fusion_stride=8", "--set", "stage3.lpm=se")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert "backbone mit_b0" in lines
        assert "lpm 3 se" in lines
        assert "fusion_stride 8" in lines
        assert not [line for line in lines if line.startswith("attention 1")]

    def test_training_genes(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "show", "hyperparameters")
        assert "the decoder is given by --genotype" in out
        assert "0.0001 … 0.01 log" in out

    def test_narrow_terminal(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nasseg.cli.console.PLAIN_WIDTH", 80)
        out = call(capsys, "space", "show", "decoder")
        assert max(map(len, out.splitlines())) <= 80
        assert "meaning" not in out

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        shown = json.loads(call(capsys, "space", "show", "csap", "--json"))
        assert shown["size"] == 23_862_720
        assert shown["fingerprint"] == Space.load("csap").fingerprint
        by_name = {v["name"]: v for v in shown["variables"]}
        assert by_name["inputs"]["choices"] == ["self", "2+3+4", "all"]
        assert by_name["lpm"]["stages"] == [4, 3, 2]
        # What is shown can be read back.
        kept = {key: shown[key] for key in ("name", "description", "genotype", "genes", "objectives", "presets")}
        assert Space.from_dict(kept) == Space.load("csap")
        training = json.loads(call(capsys, "space", "show", "hyperparameters", "--json"))
        assert training["size"] is None
        rates = {v["name"]: v for v in training["variables"]}
        assert rates["train.lr"] == {
            "name": "train.lr", "gene": "train.lr", "meaning": "the trainer's lr",
            "low": 1e-4, "high": 1e-2, "step": 1, "log": True, "integer": False,
        }  # fmt: skip
        assert rates["train.loss"]["choices"] == ["cross_entropy", "ohem", "cross_entropy_dice"]

    def test_conditions_show(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(
            "genes: {lpm: {choices: [se, eca], when: {attention: own}}, attention: {choices: [own, none]}}\nbudget: {macs: 1G}\n"
        )
        out = call(capsys, "space", "show", str(path))
        assert "attention own" in out
        assert "macs at most 1.00G" in out
        assert json.loads(call(capsys, "space", "show", str(path), "--json"))["variables"][1]["when"] == "attention own"


class TestStats:
    def test_size_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "stats", "scaseg")
        assert out.startswith("scaseg  2,021,760 genotypes\n")
        assert "give --backbone, --size and --classes" in out
        told = json.loads(call(capsys, "space", "stats", "decoder", "--json"))
        assert told["size"] == 1_912_601_457_847_628_824_742_136
        assert told["share"] is None

    def test_exact(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("space", "stats", "tiny", *COSTED, "--budget", "decoder_macs=5M,params=4M")
        told = json.loads(call(capsys, *arguments, "--json"))
        assert (told["size"], told["evaluated"], told["exact"]) == (312, 312, True)
        assert 0 < told["fitting"] < 312
        assert told["share"] == told["fitting"] / 312
        assert told["input"] == [64, 96]
        assert told["backbones"] == ["mit_b0"]
        out = call(capsys, *arguments)
        assert f"{told['fitting']} of 312 fit the budget" in out
        assert "binds" in out
        assert "← bound" in out
        assert "95 %" not in out

    def test_sampled(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "stats", "decoder", *COSTED, "--budget", "decoder_macs=20M", "--samples", "60", "--seed", "2")
        assert "60 uniform draws costed" in out
        assert "95 % interval" in out
        assert out == call(capsys, "space", "stats", "decoder", *COSTED, "--budget", "decoder_macs=20M", "--samples", "60", "--seed", "2")

    def test_no_budget(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "stats", "tiny", *COSTED)
        assert "fit the budget" not in out
        assert "params" in out

    def test_budget_that_nothing_fits(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = call(capsys, "space", "stats", "tiny", *COSTED, "--budget", "params=1M")
        assert "0 of 312 fit the budget: 0 %" in out
        assert "no network of space tiny fits this bound: the cheapest one has params 3." in " ".join(out.split())

    def test_budget_that_no_draw_fits(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("space", "stats", "decoder", *COSTED, "--budget", "decoder_macs=2M", "--samples", "20")
        assert "none of the draws fits, but a search found one that does" in call(capsys, *arguments)
        assert "found one" in json.loads(call(capsys, *arguments, "--json"))["note"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("--budget", "macs=1G"),
                "--backbone: costs are those of a whole network, and the space names no backbone; nearest legal: mit_b0",
            ),
            (("--backbone", "mit_b0"), "--size: the cost of a network depends on its input size; nearest legal: 512x512"),
            ((*COSTED[:4], "--classes", "0"), "--classes: the cost of a network depends on the number of classes, 1 or more (given 0)"),
            ((*COSTED, "--samples", "0"), "--samples: must be a whole number from 1 (given 0)"),
            ((*COSTED, "--budget", "mac=1G"), "--budget: mac: no such bound"),
            ((*COSTED, "--set", "lpm=sse"), "--set: genes.lpm: must be one of"),
            (("--backbone", "mit_b9", "--size", "64", "--classes", "2"), "mit_b9"),
        ],
    )
    def test_refused(self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
        assert message in fails(capsys, "space", "stats", "tiny", *arguments)


class TestSample:
    def test_table_and_files(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        out = call(capsys, "space", "sample", "tiny", "-n", "3", "--seed", "5", "--out", str(tmp_path / "drawn"))
        wanted = Space.load("tiny").sample(3, seed=5)
        assert all(g.id in out and g.short() in out for g in wanted)
        assert {Genotype.load(p) for p in (tmp_path / "drawn").iterdir()} == set(wanted)

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        told = json.loads(
            call(capsys, "space", "sample", "hyperparameters", "--genotype", "csap", "--backbone", "mit_b0", "-n", "2", "--json")
        )
        assert len(told["sample"]) == 2
        for drawn in told["sample"]:
            assert Genotype.from_dict(drawn["genotype"]).id == drawn["id"] == "538fe096d7e1"
            assert 1e-4 <= drawn["settings"]["lr"] <= 1e-2

    def test_settings_show(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("space", "sample", "hyperparameters", "--genotype", "csap", "--backbone", "mit_b0", "-n", "1", "--set", "train.lr=0.5")
        assert "lr=0.5" in call(capsys, *arguments)

    def test_refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert "-n: must be a whole number from 1 (given 0)" in fails(capsys, "space", "sample", "tiny", "-n", "0")
        assert "this space takes its decoder from outside" in fails(capsys, "space", "sample", "hyperparameters")
        assert "nearest legal: tiny" in fails(capsys, "space", "sample", "tinny")
        (tmp_path / "file").write_text("")
        assert "cannot be written" in fails(capsys, "space", "sample", "tiny", "--out", str(tmp_path / "file"))


def test_presets_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = call(capsys, "presets")
    assert "CSAP: one attention map" in out
    assert "arXiv 2411.17061" in out
    told: list[dict[str, Any]] = json.loads(call(capsys, "presets", "--json"))
    assert [design["name"] for design in told][:2] == ["segformer", "segformer_mmseg"]
    assert "params" not in told[0]


def test_presets_costed(capsys: pytest.CaptureFixture[str]) -> None:
    told = {design["name"]: design for design in json.loads(call(capsys, "presets", "--backbone", "mit_b0", "--json"))}
    # ARCHITECTURES: SCASeg on MiT-B0 at 512×512 with 150 classes, 4.910 M live, 5.937 G as fvcore counts.
    assert round(told["scaseg"]["params"] / 1e6, 3) == 4.910
    assert round(told["scaseg"]["macs_fvcore"] / 1e9, 3) == 5.937
    out = call(capsys, "presets", "--backbone", "mit_b0")
    row = next(line.split() for line in out.splitlines() if line.startswith("scaseg "))
    assert row[1:7] == ["base", "1.591", "4.910", "2.647", "5.851", "5.937"]
    assert "(base): not published on mit_b0; the base size is taken of segnext, csap, canet_fca\n" in out


def test_presets_have_the_size_published_on_the_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    told = {design["name"]: design for design in json.loads(call(capsys, "presets", "--backbone", "mit_b2", "--json"))}
    assert {name: design["published_size"] for name, design in told.items() if design["published_size"] != "large"} == {
        "segformer_mmseg": "base",
        "segnext": None,
        "csap": None,
        "canet_fca": None,
    }
    # SegFormer-B2 as printed: 27.5 M with a spare classifier of 768 → 150, 62.4 G.
    assert round(told["segformer"]["params"] / 1e6, 1) == 27.5
    assert round(told["segformer"]["macs"] / 1e9, 2) == 62.34
    out = call(capsys, "presets", "--backbone", "mit_b2")
    assert next(line.split() for line in out.splitlines() if line.startswith("segformer "))[1] == "large"
    out = call(capsys, "presets", "--backbone", "resnet18")
    assert next(line.split() for line in out.splitlines() if line.startswith("segformer "))[1] == "(base)"
    assert "(base): not published on resnet18" in out


def test_presets_with_other_genes(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(call(capsys, "presets", "--set", "fusion_width=64", "--json"))
    assert {design["genotype"]["fusion_width"] for design in told} == {64}
    problem = fails(capsys, "presets", "--set", "rank=2")
    assert "--set on segformer: rank: nothing reads this gene here" in problem
    assert "--set on canet_fca" in problem
    assert "takes genes here" in fails(capsys, "presets", "--set", "trainer.lr=1")
    assert "classes: must be a whole number from 1" in fails(capsys, "presets", "--backbone", "mit_b0", "--classes", "0")
