"""Losses as text: one spelling each, everything else refused."""

from __future__ import annotations

import pytest

from nasseg.errors import ConfigError
from nasseg.training.config import TrainingConfig
from nasseg.training.mixture import nearest_mixture, parse_mixture, spell_mixture


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("cross_entropy", {"cross_entropy": 1.0}),
        ("cross_entropy_dice", {"cross_entropy": 1.0, "dice": 1.0}),
        ("cross_entropy_lovasz", {"cross_entropy": 1.0, "lovasz": 1.0}),
        ("cross_entropy + 0.5 * dice", {"cross_entropy": 1.0, "dice": 0.5}),
        ("2*lovasz+1e-1*ohem", {"lovasz": 2.0, "ohem": 0.1}),
    ],
)
def test_terms(text: str, terms: dict[str, float]) -> None:
    assert parse_mixture(text) == terms


@pytest.mark.parametrize(
    "text", ["", "focal", "dice+", "dice+dice", "0*dice", "-1*dice", "nan*dice", "inf*dice", "dice*2", "cross_entropy_dice+lovasz"]
)
def test_what_is_no_loss_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not one of cross_entropy|could not convert"):
        parse_mixture(text)


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        (" cross_entropy + 0.50*dice ", "cross_entropy+0.5*dice"),
        ("1*cross_entropy+dice", "cross_entropy+dice"),
        ({"cross_entropy": 1, "dice": 0.5}, "cross_entropy+0.5*dice"),
        ("cross_entropy_dice", "cross_entropy_dice"),
        ("ohem", "ohem"),
        ("0.1234567*ohem", "0.1234567*ohem"),
    ],
)
def test_one_spelling(given: object, spelt: str) -> None:
    assert TrainingConfig.parse({"loss": given}).loss == spelt
    assert spell_mixture(spelt) == spelt


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("crossentropy", "cross_entropy"),
        ("lovasz_softmax", "lovasz"),
        ("dice+dice", "cross_entropy+0.5*dice"),
        (3, "cross_entropy+0.5*dice"),
    ],
)
def test_the_error_names_all_terms_and_a_legal_loss(given: object, nearest: str) -> None:
    assert nearest_mixture(given) == nearest
    with pytest.raises(
        ConfigError, match=r"loss: must be one of cross_entropy, ohem, boundary, dice, lovasz, .* nearest legal: "
    ) as caught:
        TrainingConfig.parse({"loss": given})
    assert str(caught.value).endswith(f"nearest legal: {nearest}")
