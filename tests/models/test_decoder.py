"""The contract over every value of every gene, every published design and the corners."""

from __future__ import annotations

from kits_model import ALL_CASES, DecoderContract


class TestEveryDecoder(DecoderContract):
    cases = ALL_CASES
