"""Sphinx roles in docstrings, such as ``:class:`Budget```, as plain code in the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([\w.]+)`")


class Roles(griffe.Extension):
    """Takes the roles off every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **more: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
