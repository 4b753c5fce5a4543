"""Binary (1-bit weights, 1-bit activations) linear layers and convolutions, as PyTorch operators for the CPU and for NVIDIA GPUs.

    y = ops.binary_conv2d(x, w, padding=1)        # every element equals F.conv2d(sign(x), sign(w), padding=1)

Use these two, :func:`binary_linear` and :func:`binary_conv2d`, where the operands are float tensors; they
carry the gradient of the clipped straight-through estimator, so a network trains through them.
:func:`conv2d_of_signs` is the step inside a layer that has its own estimators, and what
:class:`bnnlib.layers.BinaryConv2d` trains with on a CPU. To run a trained layer, pack its weight once:

    bits = ops.pack_weight(w)                     # uint8 [O, ceil(K / 8)]: what a file holds
    ready = ops.prepack(bits, w.shape)            # for this CPU's kernel; not for files
    y = ops.conv2d_packed(x, ready, w.shape, padding=(1, 1), scale=alpha, bias=beta)
    b = ops.conv2d_packed(x, ready, w.shape, padding=(1, 1), threshold=t, flip=f, out="bits")

Formats (little-endian bit order; a set bit is +1, padding bits are 0; C++ side: ``kernels/layout.h``)

================= ====================================== =================================================
weight, stored    uint8 ``[O, ceil(K / 8)]``             rows of K = C/groups * kh * kw bits, in the order of
                                                         the float tensor
weight, prepacked uint8 ``[bytes]``                      opaque, for one kernel variant, refused by any other
activations       int64 ``[N, H, W, ceil(C / 64)]``      the channels of a pixel; rows of a linear layer are
                                                         ``[..., ceil(K / 64)]``
threshold, flip   int32 ``[O]``, int64 ``[ceil(O/64)]``  bit = (dot >= threshold) xor flip
================= ====================================== =================================================

Signs: sign(0) = sign(-0.0) = +1; a NaN counts as -1, as in :func:`bnnlib.quantizers.sign`. Zero padding
contributes exactly nothing. Results are exact integers for K < 2^24 (float32 holds no larger ones), int16
results are refused where they could overflow.

The kernel variant is the best that CPU and operating system support; ``BNN_KERNEL=scalar`` forces another,
``python -m bnnlib.ops`` lists them. Threads follow ``torch.set_num_threads``; calls release the GIL; in a
forked child they run on one thread. Tensors on a GPU are computed there, on the current stream: see
:mod:`bnnlib.ops.cuda`. Method: Rastegari et al. 2016 (arXiv 1603.05279), dot = K - 2
popcount(a xor b).
"""

from bnnlib.ops._backend import backend, pack_words, unpack_words, variants
from bnnlib.ops._packed import conv2d_packed, linear_packed
from bnnlib.ops._packing import pack_activation, pack_weight, prepack, unpack_activation, unpack_weight
from bnnlib.ops._pooling import or_pool
from bnnlib.ops._thresholds import fold_threshold, threshold_of
from bnnlib.ops._training import binary_conv2d, binary_linear, conv2d_of_signs

__all__ = [
    "backend", "binary_conv2d", "binary_linear", "conv2d_of_signs", "conv2d_packed", "fold_threshold",
    "linear_packed", "or_pool", "pack_activation", "pack_weight", "pack_words", "prepack", "threshold_of",
    "unpack_activation", "unpack_weight", "unpack_words", "variants",
]  # fmt: skip
