from .filter_result import SpectralFilterResult as SpectralFilterResult
from .spectral_filter import spectral_filter as spectral_filter
