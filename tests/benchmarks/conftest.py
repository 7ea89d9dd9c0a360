"""The built-in model, and copies of data sets whose images differ."""

import numpy as np
import pytest
from PIL import Image

from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.benchmarks import BENCHMARKS
from hf_clipalign.data import load_mini
from tests.benchmarks.published_copies import COPIES, usual_folder


@pytest.fixture(scope="session")
def encoder():
    return as_dual_encoder(load_mini().student)


@pytest.fixture(scope="session")
def processor():
    return load_mini().student_processor


@pytest.fixture
def published(tmp_path):
    """Writes a copy of a data set below `tmp_path`, each image with other pixels."""

    def publish(name, number=0):
        entry = BENCHMARKS[name]
        folder = usual_folder(entry, entry.layouts[number], tmp_path)
        COPIES[entry.layouts[number].format](folder, entry.layouts[number])
        generator = np.random.default_rng(0)
        for path in sorted(folder.rglob("*.jpg")):
            pixels = np.kron(generator.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(path, "PNG")
        return folder

    return publish
