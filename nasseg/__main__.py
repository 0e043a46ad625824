"""``python -m nasseg`` is ``nasseg``: what torchrun starts."""

from __future__ import annotations

from nasseg.cli.main import run

if __name__ == "__main__":
    run()
