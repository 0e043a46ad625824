"""Named schedules against a table of their own: the numbers as papers and public configurations print them."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from kits_trainer import DATA, call

from nasseg.cli.target import Asked, trial_of
from nasseg.cli.train import command as train_command
from nasseg.errors import ConfigError
from nasseg.files import read_yaml
from nasseg.genes.presets import preset
from nasseg.training.optim import Schedule
from nasseg.training.protocol import Protocol
from nasseg.training.schedules import NamedSchedule, load_schedule, schedule_names
from nasseg.training.trainer import load_trainer

# name: iterations, images a step, crop, validation every, (mode, images fitted into or resized to, windows' stride, aspect kept, divisor)
PRINTED: dict[str, tuple[int, int, tuple[int, int], int, tuple[Any, ...]]] = {
    "ade20k-160k": (160_000, 16, (512, 512), 16_000, ("whole", (512, 2048), None, True, 32)),
    "cityscapes-160k": (160_000, 8, (1024, 1024), 16_000, ("slide", (1024, 2048), (768, 768), True, 1)),
    "coco-stuff-80k": (80_000, 16, (512, 512), 8_000, ("whole", (512, 2048), None, True, 32)),
    "voc-40k": (40_000, 16, (512, 512), 4_000, ("whole", (512, 2048), None, True, 32)),
    "camvid-30k": (30_000, 16, (360, 480), 3_000, ("whole", (360, 480), None, False, 1)),
}
# name, backbone: crop, drop path, images fitted into; everything else as without a backbone.
PRINTED_ON: dict[tuple[str, str], tuple[tuple[int, int], float, tuple[int, int]]] = {
    ("ade20k-160k", "mit_b4"): ((512, 512), 0.1, (512, 2048)),
    ("ade20k-160k", "mit_b5"): ((640, 640), 0.1, (640, 2048)),
    ("ade20k-160k", "mit_b5?mean=0.5"): ((640, 640), 0.1, (640, 2048)),
    ("ade20k-160k", "mscan_b"): ((512, 512), 0.1, (512, 2048)),
    ("ade20k-160k", "mscan_l"): ((512, 512), 0.3, (512, 2048)),
    ("cityscapes-160k", "mit_b5"): ((1024, 1024), 0.1, (1024, 2048)),
    ("cityscapes-160k", "mscan_l"): ((1024, 1024), 0.3, (1024, 2048)),
    ("coco-stuff-80k", "mscan_l"): ((512, 512), 0.3, (512, 2048)),
}


def test_all_are_in_the_table() -> None:
    assert schedule_names() == sorted(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_it_resolves_to_the_printed_numbers(name: str) -> None:
    iterations, images, crop, every, (mode, size, stride, keep_ratio, divisor) = PRINTED[name]
    plan = load_schedule(name)
    config = load_trainer(plan.trainer).Config.parse(plan.settings)
    assert (config.iterations, config.batch_size * config.accumulation, plan.size, config.val_every) == (iterations, images, crop, every)
    # AdamW at 6e-5, the head at ten times that, decay 0.01, no clipping.
    assert config.lr * config.backbone_lr_scale == pytest.approx(6e-5, rel=1e-12)
    assert (config.lr, config.weight_decay, config.clip) == (6e-4, 0.01, 0.0)
    # custom_keys of norm and head; avg_non_ignore=False.
    assert (config.decay_rule, config.loss_average) == ("mmsegmentation", "all")
    # A line up over 1,500 iterations, a line down to 0.
    rate = Schedule(iterations, kind=config.schedule, warmup=config.warmup_share, power=config.power, floor=config.lr_floor)
    assert rate.warmup == 1500
    assert [rate.factor(t) for t in (0, 1499, 1500)] == pytest.approx([1 / 1501, 1500 / 1501, 1.0])
    assert rate.factor(1500 + (iterations - 1500) // 2) == pytest.approx(0.5)
    assert rate.factor(iterations - 1) == pytest.approx(1 / (iterations - 1500))
    # ratio_range=(0.5, 2.0), prob=0.5, PhotoMetricDistortion, cat_max_ratio=0.75, drop_path_rate=0.1, dropout_ratio=0.1.
    assert (config.scale_low, config.scale_high, config.flip, config.distort, config.cat_max_ratio) == (0.5, 2.0, 0.5, True, 0.75)
    assert (config.drop_path, config.dropout, config.ema, config.crop) == (0.1, 0.1, 0.0, 1.0)
    assert (config.loss, config.class_weights, config.label_smoothing, config.aux_loss) == ("cross_entropy", "none", 0.0, 0.0)
    protocol = Protocol(**config.protocol(plan.size))
    assert (protocol.mode, protocol.size, protocol.stride, protocol.keep_ratio) == (mode, size, stride, keep_ratio)
    assert protocol.crop == (crop if mode == "slide" else None)
    assert (protocol.size_divisor, protocol.pad_multiple) == (divisor, 32)
    assert (protocol.masks, protocol.scales, protocol.flip, config.keep) == ("original", (1.0,), False, "last")


@pytest.mark.parametrize(("name", "backbone"), sorted(PRINTED_ON))
def test_on_some_backbones_papers_print_other_numbers(name: str, backbone: str) -> None:
    crop, drop_path, size = PRINTED_ON[name, backbone]
    plan = load_schedule(name).on(backbone)
    config = load_trainer(plan.trainer).Config.parse(plan.settings)
    assert (plan.size, config.drop_path, Protocol(**config.protocol(plan.size)).size) == (crop, drop_path, size)
    base = load_schedule(name)
    differing = {key for key in plan.settings if plan.settings[key] != base.settings.get(key)}
    assert differing <= {"drop_path", "eval_size"}
    assert base.on(None).settings == base.on("resnet18").settings == base.settings


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_it_opens_with_the_command_that_runs_it(name: str) -> None:
    text = (resources.files("nasseg.trainers") / "schedules" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    words = shlex.split(lines[0].removeprefix("# "))
    assert words[:2] == ["nasseg", "train"]
    context = train_command.make_context("train", words[2:])
    assert context.params["schedule"] == name
    assert context.params["pretrained"] is True
    assert "Source: " in text
    assert re.search(r"\b\d{4}\.\d{5}\b", text)


def test_warm_up_in_iterations_shrinks_with_the_run() -> None:
    config = load_trainer("full").Config.parse({"iterations": 1000, "warmup_iterations": 100, "warmup": 0.5})
    assert config.warmup_share == 0.1
    with pytest.raises(ConfigError, match=r"warmup_iterations: must be below iterations, which are 1000 .given 1500.; nearest legal: 50"):
        load_trainer("full").Config.parse({"iterations": 1000, "warmup_iterations": 1500})


GOOD: dict[str, Any] = {"about": "a", "trainer": "full", "size": [64, 64], "settings": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ([], "schedule x: must be a mapping with about, trainer, size, settings"),
        ({**GOOD, "sizes": 1}, "schedule x: sizes: no such key; nearest legal: size"),
        ({k: v for k, v in GOOD.items() if k != "size"}, "schedule x: size: is missing"),
        ({**GOOD, "size": 64}, "schedule x: size: must be [height, width] in pixels (given 64); nearest legal: [512, 512]"),
        ({**GOOD, "settings": 1}, "schedule x: settings: must be a mapping of the recipe's fields"),
        (
            {**GOOD, "by_backbone": {"mit_b5": {"settings": {"lr": -1}}}},
            "schedule x: by_backbone: mit_b5: settings: lr: must be a number above 0 (given -1); nearest legal: 0.0006",
        ),
        ({**GOOD, "by_backbone": []}, "schedule x: by_backbone: must be a mapping of backbones' names to size and settings"),
        ({**GOOD, "by_backbone": {"mit_b9": {"size": [8, 8]}}}, "schedule x: by_backbone: mit_b9: no such backbone; nearest legal: mit_b5"),
        (
            {**GOOD, "by_backbone": {"mit_b5": {"crop": [8, 8]}}},
            "schedule x: by_backbone: mit_b5: must be a mapping with size or settings, or both",
        ),
        (
            {**GOOD, "by_backbone": {"mit_b5": {"size": 8}}},
            "schedule x: by_backbone: mit_b5: size: must be [height, width] in pixels (given 8); nearest legal: [512, 512]",
        ),
        (
            {**GOOD, "by_backbone": {"mit_b5": {"settings": 8}}},
            "schedule x: by_backbone: mit_b5: settings: must be a mapping of the recipe's fields",
        ),
        ({**GOOD, "settings": {"lr": -1}}, "schedule x: settings: lr: must be a number above 0 (given -1); nearest legal: 0.0006"),
    ],
)
def test_what_is_wrong_is_said(raw: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NamedSchedule.from_mapping("x", raw)
    assert str(caught.value) == sentence


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--schedule: no such schedule; there are ade20k-160k, .* nearest legal: ade20k-160k"):
        load_schedule("ade20k-80k")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_schedule("nowhere.yaml")


def test_a_run_by_a_schedule_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "{iterations: 2, batch_size: 4, lr: 0.01, warmup_iterations: 1, ema: 0.0, eval_mode: slide, eval_size: 64x96, device: cpu}"
    (tmp_path / "mine.yaml").write_text(f"about: mine\ntrainer: full\nsize: [64, 64]\nsettings: {settings}\n")
    arguments = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--schedule", str(tmp_path / "mine.yaml")]
    code, _, err = call([*arguments, "--set", "trainer.lr=0.02", "--out", str(tmp_path / "run")], capsys)
    assert (code, err) == (0, ""), err
    facts = read_yaml(tmp_path / "run" / "run.yaml")
    assert (facts["size"], facts["trainer"], facts["settings"]["lr"], facts["settings"]["iterations"]) == ([64, 64], "full", 0.02, 2)
    code, _, err = call([*arguments, "--size", "32x64", "--trainer", "proxy", "--out", str(tmp_path / "other")], capsys)
    assert (code, err) == (0, ""), err
    facts = read_yaml(tmp_path / "other" / "run.yaml")
    assert (facts["size"], facts["trainer"]) == ([32, 64], "proxy")


def test_a_schedule_follows_the_networks_backbone(tmp_path: Path) -> None:
    """That of a genotype file or of --backbone; what is given goes first."""
    (tmp_path / "mine.yaml").write_text(
        "about: mine\ntrainer: proxy\nsize: [64, 64]\nsettings: {lr: 0.01, drop_path: 0.1}\n"
        "by_backbone: {mit_b5: {size: [96, 96], settings: {lr: 0.02}}, test_resnet: {settings: {drop_path: 0.2}}}\n"
    )
    plan = load_schedule(str(tmp_path / "mine.yaml"))
    preset("segformer", "test_resnet").save(tmp_path / "g.yaml")

    def found(target: str, **asked: Any) -> tuple[Any, ...]:
        trial = trial_of(target, Asked(data=DATA, **asked), plan)
        return trial.trainer, trial.size, trial.settings

    assert found("segformer", backbone="mit_b5") == ("proxy", (96, 96), {"lr": 0.02, "drop_path": 0.1})
    assert found("segformer", backbone="mit_b0") == ("proxy", (64, 64), {"lr": 0.01, "drop_path": 0.1})
    assert found(str(tmp_path / "g.yaml")) == ("proxy", (64, 64), {"lr": 0.01, "drop_path": 0.2})
    given = {"size": (32, 32), "settings": {"lr": 1.0}, "trainer": "full"}
    assert found("segformer", backbone="mit_b5", **given) == ("full", (32, 32), {"lr": 1.0, "drop_path": 0.1})


def test_the_protocol_of_a_run_is_the_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"iterations": 1, "batch_size": 2, "warmup": 0.0, "eval_mode": "slide", "eval_size": "64x128", "eval_stride": "32x48"}
    arguments = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--size", "64x64", "--out", str(tmp_path / "run")]
    code, _, err = call([*arguments, *(part for key, value in sets.items() for part in ("--set", f"trainer.{key}={value}"))], capsys)
    assert (code, err) == (0, ""), err
    protocol = read_yaml(tmp_path / "run" / "metrics.json")["protocol"]
    assert (protocol["window"], protocol["size"], protocol["crop"], protocol["stride"]) == ("slide", [64, 128], [64, 64], [32, 48])


def test_a_protocol_that_makes_no_sense_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--size", "64x64", "--out", str(tmp_path / "run")]
    code, _, err = call([*arguments, "--set", "trainer.eval_mode=slide", "--set", "trainer.eval_stride=96x96"], capsys)
    assert code == 2
    assert "stride" in err
    assert not (tmp_path / "run").exists()


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(["trainers"], capsys)
    assert code == 0
    for name, (iterations, images, (height, width), _, _) in PRINTED.items():
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert line.split()[1:4] == [f"{height}x{width}", str(images), str(iterations)]
    code, out, _ = call(["trainers", "show", "ade20k-160k"], capsys)
    assert code == 0
    assert re.search(r"warmup_iterations +1500 ", out)
    assert "On mit_b5: crop 640x640, eval_size 640x2048" in out
