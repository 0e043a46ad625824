"""``nasseg backbones``."""

from __future__ import annotations

import json

import pytest

from nasseg.cli import backbones
from nasseg.cli.main import run
from nasseg.models.backbones.registry import suggested


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    run(["backbones", *arguments])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(["backbones", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_list_has_every_suggestion_and_says_how_to_name_others(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    names = ("mit_b0", "mscan_t", "resnet18")
    assert set(names) < set(suggested())
    monkeypatch.setattr(backbones, "suggested", lambda: names)
    text = said(capsys, "--size", "64")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["mit_b0"] == ["mit_b0", "nasseg", "32", "64", "160", "256", "3.319", "0.034"]
    assert rows["resnet18"] == ["resnet18", "timm", "64", "128", "256", "512", "11.177", "0.148"]
    assert "MACs G at 64×64" in text
    assert "any timm model with maps at strides 4, 8, 16 and 32" in text
    listed = json.loads(said(capsys, "--size", "64", "--json"))
    assert [each["name"] for each in listed] == list(names)


def test_one_backbone(capsys: pytest.CaptureFixture[str]):
    text = said(capsys, "resnet18", "--size", "64x96")
    for words in ("resnet18", "64 128 256 512", "4 8 16 32", "11.177 M", "MACs at 64×96", "0.485 0.456 0.406", "any"):
        assert words in text
    facts = json.loads(said(capsys, "timm:resnet18", "--size", "64x96", "--json"))
    assert facts["name"] == "resnet18"
    assert (facts["channels"], facts["strides"], facts["params"]) == ([64, 128, 256, 512], [4, 8, 16, 32], 11176512)
    assert (facts["family"], facts["size"], facts["only_size"], facts["drop_path"]) == ("timm", [64, 96], None, True)


def test_arguments_of_the_model_and_other_inputs(capsys: pytest.CaptureFixture[str]):
    facts = json.loads(said(capsys, "resnet18?mean=0.5", "--in-chans", "1", "--size", "64", "--json"))
    assert (facts["mean"], facts["in_chans"], facts["params"]) == ([0.5], 1, 11176512 - 64 * 2 * 49)


def test_a_network_of_one_size_is_costed_at_it(capsys: pytest.CaptureFixture[str]):
    name = "swin_tiny_patch4_window7_224?img_size=224"
    assert json.loads(said(capsys, name, "--json"))["size"] == [224, 224]
    assert "224×224 only" in said(capsys, name)
    assert "takes images of 224x224 only: give --size 224x224" in refused(capsys, name, "--size", "512")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnt18"], "nearest: resnet18"),
        (["vit_small_patch16_224"], "a backbone needs 4, 8, 16 and 32"),
        (["resnet18", "--in-chans", "0"], "in_chans: must be a whole number from 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *arguments)
