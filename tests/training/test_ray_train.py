"""What Ray's first process logs, on its way to the driver's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasseg.training.ray_train import beside, relay_lines


def test_lines_are_relayed_once_and_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = beside(tmp_path / "Y")[3]
    assert logs == tmp_path / ".Y.logs"
    assert relay_lines(logs, 0) == 0
    first = '["nasseg.a", 30, "100% odd"]\n'
    logs.write_text(first + '["nasseg.b", 40, "tor')
    end = relay_lines(logs, 0)
    assert end == len(first)
    with logs.open("a") as file:
        file.write('n"]\n')
    end = relay_lines(logs, end)
    assert relay_lines(logs, end) == end == logs.stat().st_size
    assert caplog.record_tuples == [("nasseg.a", 30, "training: 100% odd"), ("nasseg.b", 40, "training: torn")]
