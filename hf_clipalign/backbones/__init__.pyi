from .dual_encoder import DualEncoder as DualEncoder
from .dual_encoder import Projector as Projector
from .loading import load_model as load_model
from .loading import load_processor as load_processor
from .registry import as_dual_encoder as as_dual_encoder
from .registry import register_backbone as register_backbone
from .registry import supported_model_types as supported_model_types
from .text import tokenize as tokenize
