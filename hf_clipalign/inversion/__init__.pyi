from .image import ovi as ovi
from .optimisation import InversionOutput as InversionOutput
from .store import inversion_blocks as inversion_blocks
from .store import invert_to_store as invert_to_store
from .store import read_inversions as read_inversions
from .text import oti as oti
