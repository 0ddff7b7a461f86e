"""Fault points are there for tests, and nothing that is installed can set one off."""

from __future__ import annotations

import ast
from pathlib import Path

from allq import faults
from tests.crash.test_matrix import points

ROOT = Path(__file__).parents[3]
INSTALLED = ("allq", "imaging", "models", "db", "worker", "review", "cli")


def test_reaching_a_point_does_nothing_in_a_process_that_no_test_has_prepared():
    assert faults.handler is None
    faults.reach("record.written")


def test_nothing_that_is_installed_gives_the_points_a_handler():
    touched = []
    for room in INSTALLED:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                uses = isinstance(node, ast.Attribute) and ast.unparse(node) == "faults.handler"
                imports = isinstance(node, ast.ImportFrom) and node.module == "allq.faults"
                if uses or imports:
                    touched.append((path, node.lineno))
    assert touched == []


def test_every_step_of_the_work_has_points():
    assert {point.partition(".")[0] for point in points()} >= {
        "acknowledge",
        "call",
        "claim",
        "compute",
        "export",
        "key",
        "publish",
        "reclaim",
        "record",
        "renew",
        "restore",
        "return",
        "rotate",
        "seal",
        "submit",
    }
