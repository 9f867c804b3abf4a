"""Operators: one module a family, all that the product knows of an operator in one place (see `base`)."""

from exporter.ops.base import Operator, Refused, all_operators, operator_of, register

__all__ = ["Operator", "Refused", "all_operators", "operator_of", "register"]
