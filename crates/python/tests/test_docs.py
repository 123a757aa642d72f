"""The Python blocks of the documents run, in order, without a network."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

PAGES = ["docs/python.md", "crates/python/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path):
    for library in ("pyarrow", "polars", "duckdb", "pandas"):
        pytest.importorskip(library)
    blocks = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / page).read_text(), re.M | re.S)
    assert blocks, f"{page} has no Python"
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "pipelines", tmp_path / "pipelines")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
