"""What the oldest versions that the package promises cannot do."""

import pytest
import transformers
from packaging import version

TRANSFORMERS = version.parse(transformers.__version__)
OLD = version.parse("5.23") > TRANSFORMERS

loads_by_transformers = pytest.mark.skipif(
    OLD, reason="5.0 loads no adapter of a model without the prefix `model.`; 5.23 is known to"
)
