"""The rules of the house that no tool checks: small files and functions, plain names, steps that say what they do."""

import ast
import re
from pathlib import Path

import pytest

import teachwise
from teachwise.steps import STEPS

ROOT = Path(teachwise.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MOST_LINES = 400
MOST_FUNCTION_LINES = 60
BANNED = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def named(path):
    return str(path.relative_to(ROOT))


def nodes(path, kind):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kind)]


def test_there_are_files_to_look_at():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=named)
def test_functions_are_short(path):
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in nodes(path, FUNCTION)}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_module_has_a_name_that_says_nothing(path):
    words = {word for part in path.relative_to(ROOT).with_suffix("").parts for word in part.split("_")}
    assert not words & BANNED


@pytest.mark.parametrize("path", FILES, ids=named)
def test_bare_excepts_that_lose_failures(path):
    """A failure may be caught without a name only to be raised again or told."""
    for handler in nodes(path, ast.ExceptHandler):
        assert handler.type is not None, f"line {handler.lineno}: bare except"
        caught = {name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)}
        if caught & {"Exception", "BaseException"}:
            told = any(isinstance(node, ast.Raise | ast.Return | ast.Call) for node in ast.walk(handler))
            assert told, f"line {handler.lineno}: a failure is swallowed"


@pytest.mark.parametrize("step", [*(step.name for step in STEPS), "export"])
def test_every_step_opens_with_what_goes_in_and_what_comes_out(step):
    lines = (ast.get_docstring(ast.parse((ROOT / f"{step}.py").read_text(encoding="utf-8"))) or "").splitlines()
    assert re.match(rf"{step.capitalize()}: .+[.?]$", " ".join(lines[: lines.index("")]))
    block = lines[lines.index("") + 1 :]
    block = block[: block.index("")] if "" in block else block
    ins = [line for line in block if re.match(r"in   \S", line)]
    outs = [line for line in block if re.match(r"out  \S", line)]
    assert ins
    assert outs
    assert block[: len(ins)] == ins, "in comes first"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_the_function_of_a_step_has_the_shape_that_the_pipeline_calls(step):
    module, _, function = step.do.partition(":")
    path = ROOT / f"{module.removeprefix('teachwise.')}.py"
    found = next(node for node in nodes(path, FUNCTION) if node.name == function)
    assert [argument.arg for argument in found.args.args] == ["recipe", "run", "unit"]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_is_unpickled_and_no_remote_code_is_trusted_unasked(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(import pickle|pickle\.|torch\.load\(|trust_remote_code\s*=\s*True)", text)


def test_shipped_weights_are_safetensors():
    names = [path.name for path in ROOT.rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
