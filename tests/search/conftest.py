import pytest

from tests.tiny_models import save_tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny CLIP as a folder."""
    return str(save_tiny("clip", tmp_path_factory.mktemp("checkpoints") / "clip"))
