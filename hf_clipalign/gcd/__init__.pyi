from .configuration import SpectralGCDConfig as SpectralGCDConfig
from .explanation import concept_contributions as concept_contributions
from .explanation import top_concepts as top_concepts
from .filter_result import SpectralFilterResult as SpectralFilterResult
from .modeling import ClassPrediction as ClassPrediction
from .modeling import SpectralGCDModel as SpectralGCDModel
from .modeling import SpectralGCDOutput as SpectralGCDOutput
from .spectral_filter import spectral_filter as spectral_filter
