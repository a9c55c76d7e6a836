import pytest

from tests.reports.pages import PAPER_YAML, PUBLISHED_CSV, TRAIN_PY


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A replications folder with one paper, and the working directory in tmp_path."""
    folder = tmp_path / "replications" / "toy"
    folder.mkdir(parents=True)
    for name, text in (("paper.yaml", PAPER_YAML), ("published.csv", PUBLISHED_CSV), ("train.py", TRAIN_PY)):
        (folder / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path
