"""Paths of the repository, and its sample data as tables."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

# Nothing here needs a network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def model() -> str:
    return str(REPOSITORY / "examples/models/mini-embedder")


@pytest.fixture
def reviews():
    """Twenty reviews, one of them null."""
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(REPOSITORY / "examples/data/reviews.parquet").slice(0, 60)
    assert table["text"].null_count > 0
    return table
