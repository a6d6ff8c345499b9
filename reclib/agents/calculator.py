"""Arithmetic that a model may write: parsed into a tree, checked node by node, never executed as code.

Numbers, + - * / **, parentheses, lists, and min, max, sum, round. All numbers are floats, so that no power can grow
without bound; whatever is not finite in the end is an error.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

LONGEST = 2000  # characters
DEEPEST = 50  # nested operations
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # floats: overflow is an error, not a number of a million digits
}
ALLOWED = "numbers, + - * / **, parentheses, lists, min, max, sum and round"


def evaluate(expression: str) -> float:
    """The value of an expression.

    Raises:
        ValueError: too long, not arithmetic, a name, attribute or call that is not listed above, a division by zero, or
            a value that is not finite.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"expression: {len(expression)} characters; use at most {LONGEST}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        found = _value(tree.body, 0)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"expression: {expression[:60]!r} is not arithmetic; use {ALLOWED}") from error
    except (ArithmeticError, ValueError) as error:
        if str(error).startswith("expression: "):
            raise
        raise ValueError(f"expression: {error}; the result would not be a finite number") from error
    if not isinstance(found, float) or not math.isfinite(found):
        raise ValueError("expression: the result is not a finite number; it has to be one number")
    return found


def _value(node: ast.expr, depth: int) -> float | list[float]:
    if depth > DEEPEST:
        raise ValueError(f"expression: more than {DEEPEST} nested operations; split it")
    match node:
        case ast.Constant(value=bool()):
            raise _refused(node)
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as op, operand=operand):
            value = _number(operand, depth)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_number(left, depth), _number(right, depth))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_number(item, depth) for item in items]
        case ast.Call(func=ast.Name(id="round"), args=[number]) if not node.keywords:
            return float(round(_number(number, depth)))
        case ast.Call(func=ast.Name(id="round"), args=[number, places]) if not node.keywords:
            return round(_number(number, depth), int(max(-300.0, min(300.0, _number(places, depth)))))
        case ast.Call(func=ast.Name(id="min" | "max" | "sum" as name), args=items) if not node.keywords and items:
            each: list[float] = []
            for item in items:
                value_or_list = _value(item, depth + 1)
                each += value_or_list if isinstance(value_or_list, list) else [value_or_list]
            if not each:
                raise ValueError(f"expression: {name} of an empty list; give it numbers")
            return math.fsum(each) if name == "sum" else (min if name == "min" else max)(each)
    raise _refused(node)


def _number(node: ast.expr, depth: int) -> float:
    value = _value(node, depth + 1)
    if isinstance(value, list):
        raise ValueError("expression: a list stands where a number is needed; lists go into min, max or sum")
    return value


def _refused(node: ast.expr) -> ValueError:
    return ValueError(f"expression: {ast.unparse(node)[:60]!r} is not allowed; use {ALLOWED}")
