from .kdpl import kdpl_loss as kdpl_loss
from .kdpl import select_classes as select_classes
from .kdpl import top_classes as top_classes
