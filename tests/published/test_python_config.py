"""Configurations as text: data is read, nothing is run."""

from __future__ import annotations

from pathlib import Path

from nasseg.published.python_config import LONGEST, parse_config


def test_what_mmengine_writes() -> None:
    text = """
_base_ = ['./a.py']
norm_cfg = dict(requires_grad=True, type='SyncBN')
model = dict(
    decode_head=dict(in_channels=[32, 64], num_classes=150, align_corners=False, loss=None),
    test_cfg=dict(crop_size=(1024, 1024), mode='slide'))
lr = 6e-05
low = -1.5
table = {'a': 1, 'b': [True]}
"""
    assert parse_config(text) == {
        "_base_": ["./a.py"],
        "norm_cfg": {"requires_grad": True, "type": "SyncBN"},
        "model": {
            "decode_head": {"in_channels": [32, 64], "num_classes": 150, "align_corners": False, "loss": None},
            "test_cfg": {"crop_size": (1024, 1024), "mode": "slide"},
        },
        "lr": 6e-05,
        "low": -1.5,
        "table": {"a": 1, "b": [True]},
    }


def test_code_is_not_run_and_its_neighbours_are_read(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    text = f"""
import os
os.system('touch {witness}')
a = open({str(witness)!r}, 'w')
b = [1, eval('2'), dict(c=3, d=os.name), dict(**a)]
e = f = 4
g, h = 5, 6
i = {{**b}}
j = not 1
"""
    assert parse_config(text) == {"a": None, "b": [1, None, {"c": 3, "d": None}, None], "i": None, "j": None}
    assert not witness.exists()


def test_text_that_is_no_configuration() -> None:
    assert parse_config("model = dict(") == {}
    assert parse_config("a = '\0'") == {}
    assert parse_config("a = '\\d'") == {"a": "\\d"}
    assert parse_config("a = 1\n" + "#" * LONGEST) == {}
    assert parse_config("a = " + "[" * 500 + "]" * 500) == {}
    assert parse_config("a = " + "-" * 50_000 + "1") == {}
