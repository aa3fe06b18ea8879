"""The neural tangent kernel of a pretrained model on the span of its residual.

``kernel.residual_kernel`` is the entry point. Gradients of examples come as small factors from one
batched pass (``batched``), or one by one (``factors``). ``products`` multiplies them; ``method``
measures the cost and chooses. ``overlap`` compares the gradients on two texts.
"""

from lensllm.ntk.kernel import Kernel, residual_kernel
from lensllm.ntk.method import Computation

__all__ = ["Computation", "Kernel", "residual_kernel"]
