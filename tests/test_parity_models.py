"""The regenerated checkpoints give the features that the original architecture gave with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity_models import parity_clip

FIXTURES = Path(__file__).parent / "fixtures" / "isoclip"


@pytest.mark.parametrize("name", ["A", "A_teacher"])
def test_features_equal_the_original_architecture(name):
    check = {key: torch.from_numpy(value) for key, value in np.load(FIXTURES / f"check_{name}.npz").items()}
    model = parity_clip(name)
    with torch.no_grad():
        images = model.get_image_features(check["pixel_values"]).pooler_output
        texts = model.get_text_features(check["input_ids"]).pooler_output
    torch.testing.assert_close(images, check["image_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, check["text_features"], atol=1e-5, rtol=0)
    assert float(model.logit_scale) == pytest.approx(float(check["logit_scale"]))
