from .contrastive import contrastive_loss as contrastive_loss
from .contrastive import sigmoid_loss as sigmoid_loss
from .kdpl import kdpl_loss as kdpl_loss
from .kdpl import select_classes as select_classes
from .kdpl import top_classes as top_classes
from .promptsrc import gaussian_prompt_weights as gaussian_prompt_weights
from .promptsrc import promptsrc_losses as promptsrc_losses
from .views import info_nce_loss as info_nce_loss
