"""Configurations of mmcv and mmengine, which checkpoints carry as Python text: read as data, never run."""

from __future__ import annotations

import ast
import warnings
from typing import Any

LONGEST = 2_000_000
"""Characters. Text beyond this is not looked at."""


class _NotData(Exception):
    pass


def parse_config(text: str) -> dict[str, Any]:
    """The top-level assignments of a configuration, ``{"model": {"type": "EncoderDecoder", …}, …}``.

    Values are numbers, strings, True, False, None, lists, tuples and dictionaries, written as literals or ``dict(key=value)``. Anything
    else (a call, a lambda) becomes None where it stands. Text that is not Python gives an empty dictionary.
    """
    if len(text) > LONGEST:
        return {}
    try:
        with warnings.catch_warnings():
            # Of the text's style, such as an escape that is none.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    out: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
            try:
                out[statement.targets[0].id] = _value(statement.value)
            except RecursionError:
                return {}
    return out


def _value(node: ast.expr) -> Any:
    try:
        return _data(node)
    except _NotData:
        return None


def _data(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=elements):
            return [_value(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element) for element in elements)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            return {key.value: _value(value) for key, value in zip(keys, values, strict=True) if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(word.arg for word in keywords):
            return {str(word.arg): _value(word.value) for word in keywords}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise _NotData
