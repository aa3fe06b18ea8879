"""The neural tangent kernel of a pretrained model on the span of its residual.

``residual_kernel`` in ``residual.py`` is the way in. A *source* runs the model and tells how each
probe's gradient is made of small factors (``batched``, or ``looped`` where a weight is used in a
way that only autograd knows); a *product* turns them into inner products (``contraction``, exact,
or ``sketch``); ``cost`` measures what a source takes, ``choice`` picks and says why; ``damage``
finds the layer where numbers stop being finite.
"""

from lensllm.ntk.choice import Choice
from lensllm.ntk.residual import Kernel, residual_kernel

__all__ = ["Choice", "Kernel", "residual_kernel"]
