"""Parts and costs as data."""

from __future__ import annotations

import json

from nasseg.cost.cost import PARTS, Cost, Part


def a_cost() -> Cost:
    parts = dict.fromkeys(PARTS, Part()) | {"backbone": Part(100, 2000, 2300), "stage4": Part(30, 400, 450), "fusion": Part(7, 60, 80)}
    return Cost("0123456789ab", "resnet18", (64, 96), 5, parts)


def test_parts_add_up():
    assert Part(1, 20, 300) + Part(4, 50, 600) == Part(5, 70, 900)
    assert Part() == Part(0, 0, 0)


def test_totals_split_off_the_backbone():
    cost = a_cost()
    assert (cost.params, cost.macs, cost.macs_fvcore) == (137, 2460, 2830)
    assert (cost.decoder_params, cost.decoder_macs) == (37, 460)


def test_values_carry_the_budget_names():
    assert a_cost().values() == {"params": 137, "macs": 2460, "macs_fvcore": 2830, "decoder_params": 37, "decoder_macs": 460}


def test_json_is_pinned():
    nothing = '{"params": 0, "macs": 0}'
    expected = (
        '{"id": "0123456789ab", "backbone": "resnet18", "size": [64, 96], "classes": 5, "params": 137, "macs": 2460, "macs_fvcore": 2830, '
        f'"parts": {{"backbone": {{"params": 100, "macs": 2000}}, "stage1": {nothing}, "stage2": {nothing}, "stage3": {nothing}, '
        '"stage4": {"params": 30, "macs": 400}, "fusion": {"params": 7, "macs": 60}}}'
    )
    assert json.dumps(a_cost().to_dict()) == expected
