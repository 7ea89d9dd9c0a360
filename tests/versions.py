"""What the oldest versions that the package promises cannot do."""

import pytest
import transformers
from packaging import version

OLD = version.parse(transformers.__version__) < version.parse("5.23")

loads_by_transformers = pytest.mark.skipif(
    OLD, reason="5.0 loads no adapter of a model without the prefix `model.`; 5.23 is known to"
)
