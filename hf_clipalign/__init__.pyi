from ._errors import ClipAlignError as ClipAlignError
from .isoclip import IsoCLIPConfig as IsoCLIPConfig
from .isoclip import IsoCLIPModel as IsoCLIPModel

__version__: str
