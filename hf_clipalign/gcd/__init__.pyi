from .filtering import spectral_filter as spectral_filter
from .filtering_result import SpectralFilterResult as SpectralFilterResult
from .n_classes import ClassCountEstimate as ClassCountEstimate
from .n_classes import estimate_n_classes as estimate_n_classes
