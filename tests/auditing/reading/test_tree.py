"""What a file's index says, against plain walks over the tree."""

import ast
import asyncio
import json
from pathlib import Path

import pytest

from ampguard.auditing.reading.tree import Tree

FILES = sorted(file for package in (asyncio, json) for file in Path(package.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_names_below_a_node_are_all_that_stand_inside_it_in_order(file):
    tree = Tree(ast.parse(file.read_bytes()))
    for top in (tree.root, *tree.all(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Try)):
        below = [node for node in ast.walk(top) if isinstance(node, ast.Name)]
        for name in sorted({node.id for node in below} | {"self"}):
            found = tree.named(name, top)
            assert set(found) == {node for node in below if node.id == name}
            assert [node.lineno for node in found] == sorted(node.lineno for node in found)
