"""Learning from a teacher: the divergence by hand, the teacher's own normalisation, runs, what is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kits_trainer import DATA, TINY, Told, call, tiny_trial
from torch import nn
from torch.nn import functional as F

from nasseg.cli.main import run as run_command
from nasseg.errors import BundleError, ConfigError
from nasseg.files import dump_yaml, read_yaml
from nasseg.training.config import TrainingConfig
from nasseg.training.distill import DistillationLoss, Taught
from nasseg.training.job import Job
from nasseg.training.losses import SegmentationLoss
from nasseg.training.teacher import Teacher, TeacherFiles, difference, open_teacher
from nasseg.training.trial import Result

TRAIN = ["train", "segformer", "--backbone", "test_efficientnet", "--data", DATA, "--size", "64x64"]


def sets(**settings: Any) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"trainer.{key}={value}")]


@pytest.fixture(scope="module")
def taught_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations: a teacher."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run_command([*TRAIN, *sets(iterations=2, batch_size=4, warmup=0.0, ema=0.0, device="cpu"), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def bundle(taught_run: Path) -> Path:
    folder = taught_run.with_name("bundle")
    run_command(["export", str(taught_run), "--out", str(folder), "--images", "1"])
    return folder


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(2, 4, 4, 4, generator=random, dtype=torch.float32, requires_grad=True)
    teacher = torch.randn(2, 4, 4, 4, generator=random)
    target = torch.randint(0, 4, (2, 16, 16), generator=random)
    return student, teacher, target


def test_divergence_by_hand() -> None:
    # One pixel, two classes, T = 2: teacher logits (2, 0), student (0, 2).
    p = 1 / (1 + math.exp(-1.0))
    expected = 4 * (p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p))
    loss = DistillationLoss(SegmentationLoss(), weight=1.0, temperature=2.0)
    output = Taught(torch.tensor([0.0, 2.0]).view(1, 2, 1, 1), torch.tensor([2.0, 0.0]).view(1, 2, 1, 1))
    assert loss(output, torch.zeros(1, 1, 1, dtype=torch.int64)).item() == pytest.approx(expected, rel=1e-6)


def test_equal_answers_cost_nothing() -> None:
    student, _, target = batch()
    loss = DistillationLoss(SegmentationLoss(), weight=1.0, temperature=4.0)(Taught(student, student.detach()), target)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-7)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_the_weight_shares_between_teacher_and_masks() -> None:
    student, teacher, target = batch()
    beside = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    task = SegmentationLoss("cross_entropy_dice", aux_weight=0.4)
    alone = DistillationLoss(task, weight=1.0, temperature=3.0)(Taught((student, beside), teacher), target)
    both = DistillationLoss(task, weight=0.3, temperature=3.0)(Taught((student, beside), teacher), target)
    none = DistillationLoss(task, weight=0.0, temperature=3.0)(Taught((student, beside), teacher), target)
    torch.testing.assert_close(none, task((student, beside), target))
    torch.testing.assert_close(both, 0.7 * none + 0.3 * alone)


def test_the_teacher_is_resized_to_the_students_grid_and_255_left_out() -> None:
    student, _, target = batch()
    teacher = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    target[:, :, 8:] = 255
    loss = DistillationLoss(SegmentationLoss(), weight=1.0, temperature=1.0)(Taught(student, teacher), target)
    small = F.interpolate(teacher, size=(4, 4), mode="bilinear", align_corners=False)
    p, q = small.softmax(1), student.softmax(1)
    kl = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(loss, kl[:, :, :2].mean())
    target[0, :4, :2] = 255
    share = torch.ones(2, 4, 2)
    share[0, 0, 0] = 0.5
    part = DistillationLoss(SegmentationLoss(), weight=1.0, temperature=1.0)(Taught(student, teacher), target)
    torch.testing.assert_close(part, (kl[:, :, :2] * share).sum() / share.sum())
    everywhere = DistillationLoss(SegmentationLoss(), weight=1.0, temperature=1.0, ignored=True)(Taught(student, teacher), target)
    torch.testing.assert_close(everywhere, kl.mean())


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_a_batch_in_which_nothing_counts_gives_zero(weight: float) -> None:
    student, teacher, target = batch()
    loss = DistillationLoss(SegmentationLoss(), weight=weight, temperature=4.0)(Taught(student, teacher), torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0.0


def test_parts_weighed_by_their_mass() -> None:
    _, _, target = batch()
    target[:, :4] = 255
    task = SegmentationLoss(class_weights=[1.0, 2.0, 3.0, 4.0])
    assert DistillationLoss(task, weight=0.5, temperature=1.0).mass(target) == task.mass(target)
    assert DistillationLoss(task, weight=1.0, temperature=1.0).mass(target) == 2 * 12 * 16
    assert DistillationLoss(task, weight=1.0, temperature=1.0, ignored=True).mass(target) == 2 * 16 * 16
    student, teacher, _ = batch()
    target[1, 5, 3:9] = 255
    for weight in (0.5, 1.0):
        loss = DistillationLoss(SegmentationLoss(), weight=weight, temperature=2.0)
        parts = [loss(Taught(student[i : i + 1], teacher[i : i + 1]), target[i : i + 1]) * loss.mass(target[i : i + 1]) for i in range(2)]
        assert (sum(parts) / loss.mass(target)).item() == pytest.approx(loss(Taught(student, teacher), target).item(), rel=1e-6)


def test_a_loss_that_knows_no_teacher_does_not_pass_it_over() -> None:
    student, teacher, target = batch()
    with pytest.raises(AttributeError, match="'Taught' object has no attribute"):
        SegmentationLoss()(Taught(student, teacher), target)


def test_gradients_stop_at_the_teacher() -> None:
    student, teacher, target = batch()
    teacher.requires_grad_(True)
    DistillationLoss(SegmentationLoss(), weight=1.0, temperature=2.0)(Taught(student, teacher), target).backward()
    assert teacher.grad is None


def test_images_are_brought_to_the_teachers_normalisation() -> None:
    pixels = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    column = lambda values: torch.tensor(values).view(-1, 1, 1)  # noqa: E731  # one line, used three times
    mean, std, own_mean, own_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.5, 0.4, 0.3), (0.5, 0.25, 0.125)
    teacher = Teacher(nn.Identity(), mean=mean, std=std, own_mean=own_mean, own_std=own_std)
    torch.testing.assert_close(teacher((pixels - column(mean)) / column(std)), (pixels - column(own_mean)) / column(own_std))
    same = Teacher(nn.Identity(), mean=mean, std=std, own_mean=mean, own_std=std)
    assert same(pixels) is pixels


def test_a_teacher_never_trains() -> None:
    teacher = Teacher(nn.Dropout(0.5), mean=(0.5,), std=(1.0,), own_mean=(0.5,), own_std=(1.0,))
    assert not teacher.train().model.training
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    assert torch.equal(teacher(x), x)
    learns = Teacher(nn.Sequential(nn.Conv2d(1, 2, 1)), mean=(0.5,), std=(1.0,), own_mean=(0.5,), own_std=(1.0,))
    assert not learns.model.training
    assert not learns(x).requires_grad


def test_a_bundle_and_its_run_are_the_same_teacher(taught_run: Path, bundle: Path) -> None:
    run, packed = TeacherFiles.open(taught_run), TeacherFiles.open(bundle)
    assert (run.genotype.id, run.classes, run.mean, run.std) == (packed.genotype.id, packed.classes, packed.mean, packed.std)
    for name, value in run.load().state_dict().items():
        assert torch.equal(value, packed.load().state_dict()[name]), name


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_teacher_pads_as_it_was_trained(kind: str, taught_run: Path, bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(taught_run if kind == "run" else bundle, tmp_path / "teacher"))
    assert TeacherFiles.open(folder).load().pad_multiple == 32
    file = folder / ("run.yaml" if kind == "run" else "preprocessing.json")
    said = {"run": ("pad_multiple: 32", "pad_multiple: 1"), "bundle": ('"pad_multiple": 32', '"pad_multiple": 1')}
    file.write_text(file.read_text().replace(*said[kind]))
    assert TeacherFiles.open(folder).load().pad_multiple == 1


def test_loading_a_teacher_leaves_the_random_numbers_alone(taught_run: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    TeacherFiles.open(taught_run).load()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_student_comes_nearer_to_its_teacher(taught_run: Path) -> None:
    settings = {"iterations": 12, "batch_size": 4, "lr": 5e-3, "device": "cpu", "distill": str(taught_run), "distill_weight": 1.0}
    job = Job.open(tiny_trial(), TrainingConfig.parse(settings))
    assert job.teacher is not None
    x, y = next(job.batches(0))
    loss = job.loss()

    def apart() -> float:
        with torch.no_grad():
            return float(loss(job.answer(job.model.eval(), x), y))

    before = apart()
    told = Told()
    assert job.train(loss, told).status == Result.COMPLETE
    assert apart() < 0.7 * before
    assert np.mean(told.losses[-3:]) < np.mean(told.losses[:3])


def test_a_run_records_its_teacher_and_goes_on_with_it_from_another_place(
    taught_run: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = sets(iterations=3, batch_size=4, warmup=0.0, ema=0.0, device="cpu", aux_loss=0.4)
    out = ["--out", str(tmp_path / "run")]
    code, _, err = call([*TRAIN, *given, *sets(distill=taught_run), *out], capsys)
    assert (code, err) == (0, ""), err
    facts = read_yaml(tmp_path / "run" / "run.yaml")
    assert facts["teacher"] == TeacherFiles.open(taught_run).identity()
    assert facts["teacher"]["genotype"] == TeacherFiles.open(taught_run).genotype.id
    assert facts["settings"]["distill"] == str(taught_run.resolve())
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("genotype.yaml", "run.yaml", "model.safetensors"):
        (moved / name).write_bytes((taught_run / name).read_bytes())
    code, _, err = call([*TRAIN, *given, *sets(distill=moved), *out, "--resume"], capsys)
    assert (code, err) == (0, ""), err
    code, _, err = call([*TRAIN, *given, *out, "--resume"], capsys)
    assert code == 2
    assert "teacher" in err


def test_resumed_bit_for_bit(taught_run: Path, tmp_path: Path) -> None:
    whole, before, after = Told(), Told(stop_at=1), Told()
    for told, trial in (
        (whole, tiny_trial()),
        (before, tiny_trial(workdir=str(tmp_path / "a"))),
        (after, tiny_trial(workdir=str(tmp_path / "b"), parent=str(tmp_path / "a"))),
    ):
        job = Job.open(trial, TrainingConfig.parse({"iterations": 3, "batch_size": 4, "device": "cpu", "distill": str(taught_run)}))
        assert job.train(job.loss(), told).status == Result.COMPLETE
    assert before.losses + after.losses == whole.losses


def test_what_is_no_teacher_is_refused(taught_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError, match="no such folder; give a bundle or a training run"):
        TeacherFiles.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"neither a bundle .preprocessing.json. nor a training run .run.yaml."):
        TeacherFiles.open(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("genotype.yaml", "run.yaml"):
        (copy / name).write_bytes((taught_run / name).read_bytes())
    with pytest.raises(BundleError, match=r"no model.safetensors yet"):
        TeacherFiles.open(copy)
    (copy / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BundleError, match=r"does not fit genotype\.yaml"):
        TeacherFiles.open(copy).load()
    facts = read_yaml(copy / "run.yaml")
    del facts["mean"]
    (copy / "run.yaml").write_text(dump_yaml(facts))
    with pytest.raises(BundleError, match="mean missing"):
        TeacherFiles.open(copy)
    code, _, err = call([*TRAIN, *sets(distill=tmp_path / "nowhere"), "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert "nowhere: no such folder" in err
    assert not (tmp_path / "run").exists()


def test_other_classes_are_refused_by_name(taught_run: Path) -> None:
    files = TeacherFiles.open(taught_run)
    with pytest.raises(
        ConfigError, match=r"distill: the teacher's classes are not the data's: 11 classes there, 2 here; it does not know moon"
    ):
        files.check(("sky", "moon"), 3)
    with pytest.raises(ConfigError, match="the teacher sees 3 channels, the student 1"):
        files.check(files.classes, 1)
    with pytest.raises(ConfigError, match="in another order, from number 0 on"):
        open_teacher(str(taught_run), files.classes[::-1], Job.open(tiny_trial(), TrainingConfig.parse({"device": "cpu"})).backbone.spec)


def test_differences_in_words() -> None:
    assert difference(("a", "b"), ("b", "a")) == "the same names in another order, from number 0 on (a there, b here)"
    assert difference(("a", "c"), ("a", "b")) == "it does not know b; the data do not have c"
    assert difference("abcdef", "a") == "6 classes there, 1 here; the data do not have b, c, d and others"


def test_the_students_design_is_free(taught_run: Path) -> None:
    job = Job.open(tiny_trial(), TrainingConfig.parse({"device": "cpu", "distill": str(taught_run)}))
    assert job.teacher is not None
    assert job.identity["teacher"]["genotype"] != TINY.id
    assert "distill" not in job.identity["settings"]
